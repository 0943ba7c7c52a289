"""Deliberate defects, to show that the simulation can fail."""

from tests.simulation.mutants.decisions import DECISIONS
from tests.simulation.mutants.progress import PROGRESS
from tests.simulation.mutants.reports import REPORTS
from tests.simulation.mutants.storage import STORAGE

MUTANTS = [*STORAGE, *PROGRESS, *DECISIONS, *REPORTS]
