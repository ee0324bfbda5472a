import random
import subprocess
import sys

PROGRAM = """
import random, warnings
import numpy as np, torch
from mcbook.settings import begin_chapter
torch.set_default_dtype(torch.float64)
assert begin_chapter(3) is None
warnings.warn("noise")
print(torch.get_num_threads(), torch.get_default_dtype(), torch.get_float32_matmul_precision())
print(torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark)
print(random.random(), np.random.rand(), torch.rand(1).item())
"""


def test_everything_is_set_and_repeats():
    # In a process of its own: the settings are global, and other tests have theirs.
    outputs = [
        subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert outputs[0].stdout == outputs[1].stdout
    assert outputs[0].stderr == ""
    lines = outputs[0].stdout.splitlines()
    assert lines[:2] == ["1 torch.float32 highest", "True False"]
    assert lines[2].startswith(str(random.Random(3).random()))
