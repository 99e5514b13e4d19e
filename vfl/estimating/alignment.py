"""What the alignment will take: it is played in miniature, twice, and extrapolated to the lists' own lengths.

Every protocol of alignment costs so much for a start and so much for each id. Made-up lists of two lengths, in the
proportions of the true ones and with as large a share in common, say how much of either, for CPU seconds of each role
as for bytes of each message. One miniature runs in the threads of this process: no network, no other key.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from parties.ledger import Ledger
from parties.link import COORDINATOR, Endpoint
from parties.local import run_local
from parties.spec import holder_of
from parties.wire import Blinded, Control, Masked, Positions, Revealed
from psi import align, silo_rows
from psi.elements import padded
from psi.exchange import exchange_as_coordinator, exchange_as_party
from psi.settings import AlignmentSettings, choose_protocol
from psi.silos import Cast, cast_of
from psi.source import ElementArray
from vfl.estimating.account import Account, Load, shape
from vfl.estimating.survey import Survey
from vfl.play import role_types
from vfl.prepare import alignment_settings, id_rules
from vfl.report.summary import ALIGNMENT_PROTOCOLS

_ABOUT_IDS = 2e-6  # normalising is booked with reading; here digests, the order of rows, and what others know of it
_LENGTHS = {"ecdh": (256, 2_048), "mpsi": (512, 8_192)}
_USUAL_LENGTHS = (1_024, 16_384)
_LIMBS = 4  # words of a silo's sum over its rows


@dataclass(frozen=True)
class Played:
    """One miniature: CPU seconds by role; bytes, messages and hops by (protocol, sender, receiver)."""

    seconds: Mapping[str, float] = field(repr=False)
    bytes: Mapping[tuple[str, str, str], float] = field(repr=False)
    messages: Mapping[tuple[str, str, str], float] = field(repr=False)


def aligning(account: Account, survey: Survey) -> None:
    """Book the alignment."""
    settings = alignment_settings(survey.job)
    sizes = {name: settings.pad_to or size for name, size in survey.sizes.items()}
    loads = {name: _terms(account, survey, settings, name) for name in sizes} | {COORDINATOR: Load()}
    for name, size in survey.sizes.items():
        loads[name] += Load(size * _ABOUT_IDS)
    for name, load in _protocol(account, survey, settings, sizes).items():
        loads[name] += load
    if not settings.one_sided:
        cast = cast_of(role_types(survey.job))
        for name, load in (*_placing(account, survey, cast), *_proving(account, cast)):
            loads[name] += load
    account.stage("aligning", loads)


def _placing(account: Account, survey: Survey, cast: Cast) -> Iterator[tuple[str, Load]]:
    """Where silos' rows stand in the agreed order, and their proof of it: who is busy with each message."""
    guide, first = cast.guide, holder_of(cast.guide)
    compared = sum(len(silos) > 1 and holder != first for holder, silos in cast.holders.items())
    common = sum(survey.common[name] for name in survey.job.labelled)
    rows = Positions(shape(np.int64, 1), shape(np.uint32, common))
    key = Blinded(shape(np.uint8, 1, silo_rows.KEY_BYTES))
    for name in (name for name in cast.silos if name != guide):
        part = Masked(shape(np.uint64, compared if holder_of(name) == first else 1, _LIMBS))
        yield name, account.send(silo_rows.Wire.rows, guide, name, rows)
        yield name, account.send(silo_rows.Wire.key, guide, name, key)
        yield name, account.send(silo_rows.Wire.part, name, guide, part)


def _proving(account: Account, cast: Cast) -> Iterator[tuple[str, Load]]:
    """The guide hears that whole lists have the same order, and tells all."""
    for name in (name for name in cast.whole if name != cast.guide):
        yield name, account.send(align.Wire.proof, name, cast.guide, Control({"proof": "0" * 64}))
    for name in (name for silos in cast.holders.values() for name in silos if name != cast.guide):
        yield name, account.send(align.Wire.agreed, cast.guide, name, Control({"differs": None}))


def _terms(account: Account, survey: Survey, settings: AlignmentSettings, name: str) -> Load:
    """What is compared before the protocol begins."""
    facts = {**settings.facts(), **id_rules(survey.job, survey.owns[name].spec).facts()}
    told = account.send(align.Wire.terms, name, COORDINATOR, Revealed(facts, np.zeros(1)))
    return told + account.send(align.Wire.plan, COORDINATOR, name, Revealed({}, np.zeros(len(survey.owns))))


def _protocol(
    account: Account, survey: Survey, settings: AlignmentSettings, sizes: Mapping[str, int]
) -> dict[str, Load]:
    """Book the protocol and its verdict, extrapolated; returns what each role spends on it."""
    protocol = choose_protocol(settings.protocol, sizes)
    short, long = _LENGTHS.get(protocol, _USUAL_LENGTHS)
    longest = max(sizes.values())
    small = replace(settings, protocol=protocol, min_intersection=1, tell_small_count=True, pad_to=None)
    less, more = (_miniature(survey, small, sizes, min(length, longest)) for length in (short, long))

    def at_length(a: float, b: float) -> float:
        grown = (b - a) / max(min(long, longest) - min(short, longest), 1)
        return b + max(grown, 0.0) * (longest - min(long, longest))

    speeds, loads = account.speeds, {}
    for role in less.seconds:
        loads[role] = Load(0.0, max(at_length(less.seconds[role], more.seconds[role]), 0.0))
    for key, carried in more.bytes.items():
        _, sender, receiver = key
        hops = 1 if COORDINATOR in (sender, receiver) else 2
        messages = max(at_length(less.messages[key], more.messages[key]), 1.0)
        size = at_length(less.bytes[key], carried)
        account.carry(key, messages, size)
        sealed = 0.0 if hops == 1 else speeds.sealed_byte
        spent = size * speeds.byte + size / hops * (speeds.codec_byte + sealed) + messages * hops * speeds.hop
        loads[receiver] += Load(spent)
    return loads


def _miniature(survey: Survey, settings: AlignmentSettings, sizes: Mapping[str, int], longest: int) -> Played:
    """Play the exchange with lists in these proportions, the longest of so many ids."""
    lists = _lists(survey, sizes, longest / max(sizes.values()))
    lengths = {name: len(own) for name, own in lists.items()}
    seconds: dict[str, float] = {}
    ledgers = {name: Ledger() for name in (COORDINATOR, *sizes)}

    def play(endpoint: Endpoint) -> None:
        start = time.thread_time()
        if endpoint.name == COORDINATOR:
            exchange_as_coordinator(endpoint, lengths, settings)
        else:
            exchange_as_party(endpoint, ElementArray(lists[endpoint.name]), lengths, settings)
        seconds[endpoint.name] = time.thread_time() - start

    plays: dict[str, Callable[[Endpoint], None]] = dict.fromkeys(ledgers, play)
    run_local(plays, roles=role_types(survey.job), ledgers=ledgers)
    carried: dict[tuple[str, str, str], float] = defaultdict(float)
    messages: dict[tuple[str, str, str], float] = defaultdict(float)
    for name, ledger in ledgers.items():
        for entry in ledger.entries:
            protocol = entry.message.partition(".")[0]
            if entry.sender == name and protocol in ALIGNMENT_PROTOCOLS:
                carried[protocol, entry.sender, entry.receiver] += entry.bytes
                messages[protocol, entry.sender, entry.receiver] += 1
    return Played(seconds, carried, messages)


def _lists(survey: Survey, sizes: Mapping[str, int], scale: float) -> dict[str, NDArray[np.uint8]]:
    """Made-up ids: as large a share in common as in truth, of a party's silos each with its own ones of these."""
    lists = {}
    rows = sum(survey.common[name] for name in survey.job.labelled)
    common = padded(np.zeros((0, 32), np.uint8), max(1, int(scale * rows)))
    for silos in survey.job.holders.values():
        ends = np.cumsum([survey.common[name] for name in silos])
        for name, own in zip(silos, np.split(common, (ends[:-1] * len(common)) // max(ends[-1], 1)), strict=True):
            lists[name] = padded(own, max(2, len(own), round(sizes[name] * scale)))
    return {name: lists[name] for name in sizes}
