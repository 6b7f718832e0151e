"""The example: one workstation with two RTX PRO 6000 Blackwell, driver 580, Ubuntu 24.04."""

gpu = (
    [("gpu-1.example.net", {"ssh_user": "ops"})],
    {
        "gpus": ["NVIDIA RTX PRO 6000 Blackwell Workstation Edition"] * 2,
        # A desktop draws on the first card; 2 GiB of it are left to that.
        "shared_gpus": {0: 2 * 1024**3},
        "models": [],
    },
)
