"""The promises of a hub, by what they are about; `Hub` has them all."""
