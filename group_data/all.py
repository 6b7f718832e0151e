"""Every default of a host, each with its reason. An inventory says only what differs."""

# The first connection is checked too: pyinfra would accept whatever key a stranger's machine shows.
# Put the hosts' keys into your known_hosts first (`ssh-keyscan`, compared with the console's).
ssh_strict_host_key_checking = "yes"

# None: the driver's branch decides (580 and up: cuda13; 550.54.14 and up: cuda12). `cpu` is only
# ever declared: a host that falls to its CPU in silence answers, slowly, and nobody knows why.
flavour = None

# Cards as their driver names them, in PCI order. None: whatever preflight finds. Declared, a card
# that fell off the bus is a refusal and not a smaller plan.
gpus = None

# Nothing is served until an inventory says so.
models = []

# Where weights come from. A token is named by where the controller finds it, never written down:
# an `endpoint`, and a `token` that is either an `env` or a `file`.
hub = {}

# What downloads need at a site: an `environment` (HTTPS_PROXY, UV_DEFAULT_INDEX, …), a `python`.
# Nothing here: the host's own configuration holds.
site = {}

# Paths that must be mount points before anything is downloaded or started, such as the hub's.
mounts = []
