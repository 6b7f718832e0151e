"""What a model needs, what a device has, what goes where: pure, without MLX and the network."""
