from functools import partial

import hubsub

from . import same_api

sync = partial(same_api.sync, hubsub)
bulk = partial(same_api.bulk, hubsub)
queue = partial(same_api.queue, hubsub)
