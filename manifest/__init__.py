"""What a host is declared to have, and how that differs from what is there. Pure."""
