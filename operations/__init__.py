"""Converge one kind of resource each: look, compare, change what differs."""
