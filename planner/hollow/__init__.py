"""The program that asks mlx-lm itself: it runs in a process of its own, which has MLX.

Nothing else here may import it (a test sees to that): the planner stays pure, and a model that
misbehaves while it is traced takes nothing down with it.
"""
