"""The flow of the demo: lines of text in, the running count of every word out, from one NATS stream to another.

DEMO_NATS=nats://127.0.0.1:4222 DEMO_STATE=demo.db streamflow run examples.demo.flow:flow
"""

import os
import re

import streamflow as sf
from streamflow_nats import Nats

WORD = re.compile("[A-Za-z]+")

nats = Nats(os.environ.get("DEMO_NATS", "nats://127.0.0.1:4222"))
flow = sf.Flow("demo", state=os.environ.get("DEMO_STATE", "demo.db"))


def split(line: str) -> list[str]:
    return WORD.findall(line)


lines = flow.source(nats.stream("LINES", value=str))
counts = lines.flat_map(split).key_by(lambda word: word).count(name="counts")
counts.to(nats.stream("RESULTS", value=tuple[str, int]))
