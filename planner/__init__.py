"""What a model needs, what a device has, what goes where: pure, without MLX and the network."""

from planner.placement import Detected, place
from planner.plan import Member, Placement, Plan, Refusal, Space

__all__ = ["Detected", "Member", "Placement", "Plan", "Refusal", "Space", "place"]
