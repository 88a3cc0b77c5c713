"""The tasks that come with pbt_flow: learning problems to train, to read and to copy from.

Each lies in a file that is read from top to bottom; files that begin with its name hold its parts.

    toy, quadratic      two problems whose answer is known
    rl                  proximal policy optimisation on any Gymnasium environment
    gan                 images, selected by an Inception score
    translation         a transformer on sentence pairs

The package is `pbt_flow.tasks`, in a wheel as in a clone, where the folder lies beside `pbt_flow`.
"""

from collections.abc import Mapping

TASKS: Mapping[str, str] = {
    "toy": "toy:Toy",
    "quadratic": "quadratic:NoisyQuadratic",
    "rl": "rl:RL",
    "translation": "translation:Translation",
    "gan": "gan:GAN",
}
"""What each task is called, and in which module of this package its class is."""

if __name__ == "tasks":
    # In the folder of a clone, Python finds this package by the name of the folder as well.
    from pbt_flow.task.bundled import share_modules

    share_modules(__file__)
