"""One stage of a deploy each, in the order in which deploy.py calls them."""
