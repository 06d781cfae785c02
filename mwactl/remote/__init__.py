"""Other places for adapters: the Hugging Face Hub and OCI registries. The one room, beside weights, with a network."""

from mwactl.remote.offer import Item, Sent
from mwactl.remote.transfer import Pull, open_remote, plan_pull, plan_push, pull, push

__all__ = ["Item", "Pull", "Sent", "open_remote", "plan_pull", "plan_push", "pull", "push"]
