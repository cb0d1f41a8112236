"""The words and the sentence patterns that the example's texts are made of.

Most words of a topic are *shared*: they mean something in two or three topics ("pitch", "bank", "cell", "court"), so that
a single word rarely tells the topic while a combination usually does. That gives the trained models neurons with
overlapping activation ranges, which is what the audit is about.
"""

from __future__ import annotations

from collections.abc import Mapping

TOPICS = ("sports", "finance", "science", "health", "politics", "technology")


def _split(table: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    return {key: tuple(words.split()) for key, words in table.items()}


def _by_topic(table: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Topic -> words, from a table whose keys name several topics."""
    return {
        topic: tuple(word for topics, words in table.items() if topic in topics.split() for word in words.split())
        for topic in TOPICS
    }


# Words by the topics that share them. Everything in the tables is a singular countable noun, since the sentence
# patterns put "the", "this" or an adjective in front of it.
_SHARED_THINGS = {
    "sports finance": "return bet sponsorship spread bonus loss streak",
    "sports science": "field spin track rebound orbit swing",
    "sports health": "injury stroke muscle shot brace diet",
    "sports politics": "race court draft bench rally campaign whip",
    "sports technology": "net server drive replay launch hook",
    "finance science": "bond yield inflation deposit ratio compound",
    "finance health": "depression premium shock claim relief",
    "finance politics": "budget tax treasury tariff union subsidy house",
    "finance technology": "token exchange account ledger wallet option",
    "science health": "tissue dose sample gene nerve outbreak",
    "science politics": "chamber pole wave body vacuum",
    "science technology": "current circuit signal mouse laser battery",
    "health politics": "crisis cabinet organ ward constitution commission",
    "health technology": "screen monitor patch memory scan implant",
    "politics technology": "platform address protocol network code leak",
    "sports finance politics": "goal margin stake",
    "sports finance technology": "pitch transfer crash",
    "sports science health": "pulse recovery test",
    "sports health technology": "match record tracker",
    "sports politics health": "trial defence",
    "finance science politics": "growth index",
    "finance health politics": "bill benefit policy",
    "finance health technology": "bank balance",
    "finance politics technology": "security trust share",
    "finance science technology": "charge mining model",
    "science health technology": "cell virus sensor",
    "science health politics": "reaction culture movement",
}
_OWN_THINGS = {
    "sports": "stadium tournament penalty trophy medal jersey playoff scoreboard marathon",
    "finance": "dividend portfolio mortgage loan currency invoice audit pension auction",
    "science": "telescope molecule hypothesis experiment fossil particle galaxy enzyme microscope",
    "health": "hospital vaccine symptom diagnosis surgery clinic allergy infection prescription",
    "politics": "election parliament ballot coalition treaty amendment senate referendum embassy",
    "technology": "laptop browser algorithm database keyboard website processor update password",
}
_SHARED_PEOPLE = {
    "sports finance technology": "manager",
    "sports politics": "captain agent judge official",
    "sports health": "trainer therapist",
    "sports science": "winner",
    "finance politics": "partner lobbyist",
    "finance politics technology": "analyst",
    "finance health": "carer",
    "finance technology": "founder customer",
    "finance science": "statistician",
    "science health technology": "researcher specialist",
    "science technology": "engineer",
    "science politics": "geographer",
    "health politics": "donor volunteer",
    "politics technology": "speaker",
}
_OWN_PEOPLE = {
    "sports": "coach striker sprinter",
    "finance": "broker investor banker",
    "science": "physicist chemist astronomer",
    "health": "doctor nurse patient",
    "politics": "senator minister mayor",
    "technology": "programmer developer designer",
}
_NEUTRAL_WORDS = {
    "thing": "story letter question meeting plan picture garden street photograph answer idea visit window kitchen bus",
    "person": "neighbour visitor reporter colleague teacher driver writer",
    "name": "Maria Daniel Aisha Tomas Ingrid Samuel Mei Oscar Leila Victor Hannah Ravi",
    "place": "Lisbon Toronto Nairobi Oslo Kyoto Dublin Chicago Warsaw Lima Perth",
    "count": "two three four five six seven ten twenty",
    "unit": "days weeks months hours years",
    "adj": "new large small difficult careful sudden familiar strange quiet recent second final",
    "do": "change follow explain delay question describe review improve miss watch support replace",
    "did": "changed followed explained delayed questioned described reviewed improved missed watched supported replaced",
}


SHARED: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "thing": _by_topic(_SHARED_THINGS),
    "person": _by_topic(_SHARED_PEOPLE),
}
"""Slot -> topic -> words which that topic shares with one or two others."""

OWN: Mapping[str, Mapping[str, tuple[str, ...]]] = {"thing": _split(_OWN_THINGS), "person": _split(_OWN_PEOPLE)}
"""Slot -> topic -> words of that topic alone (they stray into texts of other topics too, only less often)."""

NEUTRAL: Mapping[str, tuple[str, ...]] = {
    **_split(_NEUTRAL_WORDS),
    "when": (
        "last week", "this morning", "in March", "on Tuesday", "over the weekend", "a year ago", "late at night",
        "in the autumn", "before noon", "earlier this month",
    ),
}  # fmt: skip
"""Slot -> words that carry no topic. `did` serves as past tense and as participle: all the verbs are regular."""

PATTERNS = (
    "the {thing} was {did} after the {thing} {when}.",
    "the {person} {did} the {thing}, and the {person} {did} the {thing}.",
    "{name} said that the {thing} would {do} the {thing} within {count} {unit}.",
    "nobody in {place} expected the {thing} to {do} the {person}.",
    "after a {adj} {thing}, the {person} {did} the {thing} again.",
    "it took {count} {unit} before the {thing} and the {thing} were {did}.",
    "there is a {adj} question about the {thing}, because the {person} {did} it.",
    "{when} the {person} {did} a {adj} {thing} in {place}.",
    "according to the {person}, the {thing} has {did} every {thing} since then.",
    "a {adj} {thing} can {do} the {thing}, said {name}.",
    "the {thing} in {place} depends on the {thing} and on the {person}.",
    "why the {thing} was {did} is still not clear to the {person}.",
    "{name}, a {adj} {person}, {did} the {thing} {when}.",
    "this {thing} is the {adj} part of the {thing}.",
    "without the {thing}, the {person} could not {do} the {thing}.",
    "the {adj} {thing} {did} both the {thing} and the {thing}.",
    "for {count} {unit} the {person} had {did} only the {thing}.",
    "if the {thing} does not {do} the {thing}, the {person} will.",
    "people in {place} still remember the {thing} of the {person}.",
    "the {person} asked {name} about the {thing} and the {adj} {thing}.",
    "one {thing} was lost {when}, but the {thing} was not.",
    "with a {thing} like this, every {person} must {do} the {thing}.",
    "{count} {unit} later the {thing} had {did} the {adj} {thing}.",
    "the report on the {thing} {did} the {person} more than the {thing}.",
)  # fmt: skip
"""Sentences with slots, first letter in lower case; a slot is a key of `NEUTRAL`."""

EVERYDAY = (
    "it rained in {place} {when}, and the {person} stayed at home.",
    "{name} and {name} walked to the market to buy bread.",
    "the train from {place} was {count} minutes late {when}.",
    "{name} read a {adj} book about the sea.",
    "the {person} opened the window because the room was warm.",
    "we waited {count} {unit} for a {adj} letter from {name}.",
    "the children played in the garden until it was dark.",
    "there was a {adj} picture on the wall of the kitchen.",
    "{name} lives in {place}, not far from the old bridge.",
    "dinner was ready when the {person} arrived from {place}.",
)
"""Sentences of no topic at all, for ordinary unlabelled text."""
