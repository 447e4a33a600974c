"""Every error a user can cause: what was needed, what was found, what to do.

Each class names the part of the work that failed, so that a caller can catch one kind. Commands print the message
as one paragraph and exit with `exit_code`; a traceback is shown only for faults of ours.
"""

from __future__ import annotations


class NnsslError(Exception):
    """Base of all errors that a user can cause and mend."""

    exit_code = 1


class UsageError(NnsslError):
    """A command line that cannot be carried out: unknown option, name or key."""

    exit_code = 2


class DataError(NnsslError):
    """A data set, case or file that cannot be used as it is."""


class PlanError(NnsslError):
    """A plan, patch or view size that does not fit the data or the network."""


class RecipeError(NnsslError):
    """A recipe value that is unknown, out of range, or differs from the run being continued."""


class PluginError(NnsslError):
    """A trainer that was not found, is broken, or breaks the method contract."""


class UnknownTrainer(UsageError, PluginError):
    """A trainer that is nowhere: the command line names it, so the exit code is that of a mistyped command."""


class DeviceError(NnsslError):
    """A device or process group that was asked for and is not there."""


class StateError(NnsslError):
    """A saved training state that is missing, damaged or of another run."""


class TrainingDiverged(NnsslError):
    """A loss or gradient that is not finite; names the step, the losses and the cases."""


class ExportError(NnsslError):
    """Weights that nnU-Net's own loader would not take in full, so that nothing was written."""
