"""The campaign: hundreds of kills of flows and of their server, for releases; prints what was done.

Run it with `python -m tests.faults.nats.campaign --flow 500 --server 100`. Each trial kills a flow at every crash
point, in an order of its own; the servers are killed idle, in the middle of publishing, and of acknowledging.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from tests.brokers import NatsServer
from tests.faults.nats.test_kills import kill_servers
from tests.faults.nats.test_points import run
from tests.faults.nats.trial import KINDS, QUEUES

AT_A_TIME = 3


async def kill_flows(folder: Path, wanted: int) -> int:
    """Trials of every kind, a few at a time, until there were enough kills."""
    kills, seed = 0, 1000
    while kills < wanted:
        kinds = KINDS if seed % 2 else QUEUES
        async with NatsServer(sync="2m") as server:
            trials = (run(server, folder, kind, AT_A_TIME * seed + at) for at, kind in enumerate(kinds))
            kills += sum(await asyncio.gather(*trials))
        seed += 1
        print(f"  {kills} kills of flows", flush=True)
    return kills


async def main() -> None:
    """Runs the campaign that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--flow", type=int, default=500, help="kills of flows, at least")
    parser.add_argument("--server", type=int, default=100, help="kills of servers, at least")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="streamflow-campaign-") as folder:
        flows = await kill_flows(Path(folder), options.flow)
        servers = 0
        while servers < options.server:
            servers += await kill_servers(Path(folder), rounds=4)
            print(f"  {servers} kills of servers", flush=True)
    seconds = time.monotonic() - began
    print(f"{flows} kills of flows, {servers} of servers in {seconds:.0f} s: nothing missing, nothing twice, in order")


if __name__ == "__main__":
    asyncio.run(main())
