from functools import partial

import aiopubsub

from . import same_api

sync = partial(same_api.sync, aiopubsub)
bulk = partial(same_api.bulk, aiopubsub)
queue = partial(same_api.queue, aiopubsub)
