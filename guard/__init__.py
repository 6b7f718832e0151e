"""What runs on the host in front of one engine process; imports nothing of the rest."""
