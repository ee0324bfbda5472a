"""Run benchmarks by name: `python -m benchmarks [NAMES]`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial

import torch

from mcbook.errors import UnknownNameError
from mcbook.files import write_atomic

from . import (
    curve_profile,
    curve_step,
    features,
    features_vgg16,
    geodesic,
    layerwise,
    peers,
    planted_permutations,
    profile,
    resnet_epoch,
    training_epoch,
    weight_matching,
    weight_matching_vgg16,
)
from .harness import CLOCKS, machine_line

_MODULES = (
    training_epoch,
    resnet_epoch,
    profile,
    weight_matching,
    weight_matching_vgg16,
    planted_permutations,
    features,
    features_vgg16,
    curve_step,
    curve_profile,
    geodesic,
    layerwise,
)
BENCHMARKS = {module.NAME: module.run for module in _MODULES}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run benchmarks and print what they found.

    Args:
        arguments: of the command line.

    Returns:
        0, or 1 where results do not agree as they should.  A missed target is
        printed and is no error: it says as much about the machine.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--rounds", type=int, default=5, help="how often each way is timed")
    parser.add_argument("--threads", type=int, help="torch's threads (default: torch's choice)")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it run at all?")
    parser.add_argument(
        "--peer",
        metavar="FOLDER",
        action="append",
        default=[],
        help="a checkout to compare with, of "
        + " or ".join(peer.REPOSITORY for peer in peers.KNOWN),
    )
    parser.add_argument(
        "--mnist", action="store_true", help="layerwise: also LeNet5 on MNIST, from $MCBOOK_DATA"
    )
    parser.add_argument("--json", metavar="FILE", help="write the results there as well")
    options = parser.parse_args(arguments)
    try:
        for name in options.names:
            if name not in BENCHMARKS:
                raise UnknownNameError("benchmark", name, BENCHMARKS)
        peers.use(options.peer)
        if options.mnist and not options.smoke:
            layerwise.check_mnist()
    except (UnknownNameError, FileNotFoundError) as error:
        parser.error(str(error))
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    machine = machine_line()
    print(f"{machine}; {options.clock} clock")
    runs = BENCHMARKS | {layerwise.NAME: partial(layerwise.run, mnist=options.mnist)}
    results = []
    for name in options.names or BENCHMARKS:
        rounds = 1 if options.smoke else options.rounds
        results.append(runs[name](rounds, options.smoke, options.clock))
        print(f"\n{results[-1].table()}", flush=True)
    if options.json:
        facts = {"machine": machine, "clock": options.clock, "smoke": options.smoke}
        facts["results"] = [result.as_json() for result in results]
        write_atomic(options.json, json.dumps(facts, indent=1) + "\n")
    return int(any(result.failures for result in results))


if __name__ == "__main__":
    sys.exit(main())
