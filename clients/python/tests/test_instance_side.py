"""The rules by which an instance applies each message once. The table of cases is the one that the Rust helper runs."""

import json
import random
from pathlib import Path

import pytest

from openclaw_orchestrator._instance_side import Opening, OverAck, Receipt, Rules, Stale

TABLE = json.loads((Path(__file__).resolve().parents[3] / "tests" / "conversation_vectors.json").read_text())
OPENING = {"spawned_ms": 7, "next_seq": 1, "answered_through": 0, "received_through": 0, "received_epoch": 0}


def step(rules, one):
    """What a step of the table gives, in its words."""
    match one:
        case {"open": numbers}:
            try:
                resumed = rules.open(Opening(**{**OPENING, **numbers}))
            except Stale:
                return "stale"
            return {"received_through": resumed.received_through, "missed": resumed.missed}
        case {"receive": [epoch, seq]}:
            return rules.receive(epoch, seq).value
        case {"say": in_reply_to}:
            return rules.say(in_reply_to, None).seq
        case {"handled": through}:
            return rules.handled(through)
        case {"taken": through}:
            try:
                rules.taken(through)
            except OverAck:
                return "over_ack"
            return "ok"
        case {"due": _}:
            return rules.due()
        case {"unacknowledged": _}:
            return [[said.seq, said.in_reply_to] for said in rules.memory.unacknowledged]
    raise AssertionError(f"no such step: {one}")


def expected(one):
    for word in ("gives", "due", "unacknowledged"):
        if word in one:
            return one[word]
    return None


@pytest.mark.parametrize("case", TABLE, ids=[case["rule"] for case in TABLE])
def test_the_rules_are_those_of_the_table(case):
    rules = Rules()
    for number, one in enumerate(case["steps"], start=1):
        assert step(rules, one) == expected(one), f"step {number}: {one}"


class Orchestrator:
    """As far as an instance can tell, with what is on its way."""

    def __init__(self):
        self.rules = Rules()
        self.epoch = self.journaled = self.acknowledged = self.delivered = self.answers_epoch = 0
        self.answers, self.applied, self.on_its_way = [], [], []

    def open(self):
        self.epoch += 1
        through = len(self.answers)
        opening = Opening(7, self.epoch, self.acknowledged + 1, through, through, self.answers_epoch)
        resumed = self.rules.open(opening)
        with pytest.raises(Stale):
            self.rules.open(opening)
        assert resumed.missed == 0, "there is no other instance"
        self.delivered = max(resumed.received_through, self.acknowledged)
        self.on_its_way = [(said.seq, said.message) for said in self.rules.memory.unacknowledged]

    def deliver(self, epoch, seq):
        receipt = self.rules.receive(epoch, seq)
        assert receipt != Receipt.GAP
        if receipt in (Receipt.APPLY, Receipt.APPLY_QUIETLY):
            self.applied.append(seq)
            if receipt == Receipt.APPLY:
                said = self.rules.say(seq, seq)
                self.on_its_way.append((said.seq, said.message))
            self.rules.handled(seq)

    def take(self, ack_arrives):
        if self.on_its_way:
            seq, message = self.on_its_way.pop(0)
            assert seq == len(self.answers) + 1
            self.answers.append(message)
            self.answers_epoch = self.epoch
            if ack_arrives:
                self.rules.taken(seq)

    def acknowledge(self):
        through = self.rules.due()
        if through is not None:
            assert through <= len(self.answers), "its answer may be lost"
            self.acknowledged = max(self.acknowledged, through)

    def deliver_next(self):
        if self.delivered < self.journaled:
            self.delivered += 1
            self.deliver(self.epoch, self.delivered)

    def happens(self, event):
        match event:
            case "journal":
                self.journaled += 1
            case "deliver":
                self.deliver_next()
            case "again" if self.delivered:
                self.deliver(self.epoch, self.delivered)
            case "old":
                self.deliver(self.epoch - 1, self.delivered + 1)
            case "take":
                self.take(ack_arrives=True)
            case "take unheard":
                self.take(ack_arrives=False)
            case "acknowledge":
                self.acknowledge()
            case "cut":
                self.open()


def test_each_message_is_applied_and_answered_once_in_order():
    events = ["journal", "deliver", "again", "old", "take", "take unheard", "acknowledge", "cut"]
    for seed in range(200):
        chance = random.Random(seed)
        orchestrator = Orchestrator()
        orchestrator.open()
        for event in chance.choices(events, weights=[4, 4, 1, 1, 2, 1, 2, 1], k=200):
            orchestrator.happens(event)
        # Once nothing is in the way any more, everything arrives.
        orchestrator.open()
        while orchestrator.delivered < orchestrator.journaled:
            orchestrator.deliver_next()
        while orchestrator.on_its_way:
            orchestrator.take(ack_arrives=True)
        everything = list(range(1, orchestrator.journaled + 1))
        assert (orchestrator.applied, orchestrator.answers) == (everything, everything), f"seed {seed}"
        orchestrator.acknowledge()
        assert orchestrator.acknowledged == orchestrator.journaled, f"seed {seed}"
