"""The public methods of a hub, in groups; `Hub` inherits from all of them."""
