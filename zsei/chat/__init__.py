"""Conversations over stored analyses: questions, and a closed list of actions, each confirmed."""

from zsei.chat.desk import Desk, Limits
from zsei.chat.records import Action, Event, Ran
from zsei.chat.thread import Conversation, cancelled, started, turn

__all__ = [
    "Action",
    "Conversation",
    "Desk",
    "Event",
    "Limits",
    "Ran",
    "cancelled",
    "started",
    "turn",
]
