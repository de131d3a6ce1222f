"""Epochs whose every state lies on the disk: a call that was interrupted goes on with the epoch that it was in.

An epoch is a function of the state before it, the samples and the job's seed, so the model ends in the same bits
wherever it was interrupted.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from monolith.config import JobConfig
from monolith.disk import make_folder, sync_folder, write_durably
from monolith.errors import CorruptError
from monolith.training.fitting import Epoch, Fitter, Tell
from monolith.training.learner import Learner
from monolith.training.sample_file import SampleFile

_NAME = "epochs.json"


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The epochs so far; the state after the last one, and after the best one, lie beside it."""

    scores: list[float]  # of `fit.metric`, after each
    best: int  # the number of the best, from 1


class KeptEpochs(Fitter):
    """Epochs of ``learner`` on ``train``, judged as `monolith fit` judges them; everything is kept in ``folder``."""

    def __init__(
        self, job: JobConfig, learner: Learner, train: SampleFile, validation: SampleFile, folder: Path, tell: Tell
    ) -> None:
        """Raises NoSamplesError where a part is empty."""
        super().__init__(job, train, validation, folder / "best", tell, learner)
        self._kept_in = folder
        self.scores: list[float] = []  # after each epoch
        self.best_epoch = 0
        self.learner_at = 0  # the epoch after which the learner stands; 0: before the first

    @property
    def best_score(self) -> float:
        """The score after the best epoch."""
        return self.scores[self.best_epoch - 1]

    def epochs(self) -> Iterator[Epoch]:
        """Those epochs that are missing, as they are done; after the last one ``learner`` is the best state."""
        self._resume()
        while not self._is_over():
            yield self._epoch(len(self.scores) + 1)
        if self.learner_at != self.best_epoch:
            self.learner.load(self._state(self.best_epoch))
            self.learner_at = self.best_epoch

    def _is_over(self) -> bool:
        done = len(self.scores)
        return done >= self._settings.epochs or (done > 0 and done - self.best_epoch > self._settings.patience)

    def _epoch(self, number: int) -> Epoch:
        began = time.monotonic()
        self._pass(number)
        seconds = time.monotonic() - began
        scores = self._judge()
        score = float(getattr(next(iter(scores.values())), self.metric))
        is_best = self._is_better(score)
        self.scores.append(score)
        self.best_epoch = number if is_best else self.best_epoch
        self._keep_epoch(number)
        return Epoch(number, scores, seconds, is_best)

    def _keep_epoch(self, number: int) -> None:
        """Write the state, then the line that says that it is whole, then remove what nothing needs any more."""
        scratch = self._kept_in / "state.tmp"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        self.learner.save(scratch)
        _sync(scratch)
        scratch.rename(self._state(number))
        sync_folder(self._kept_in)
        self.learner_at = number
        write_durably(self._kept_in / _NAME, msgspec.json.encode(_Kept(self.scores, self.best_epoch)))
        self._remove_others()

    def _resume(self) -> None:
        make_folder(self._kept_in)
        path = self._kept_in / _NAME
        if path.exists():
            try:
                kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
            except msgspec.DecodeError as error:
                text = f"{path} cannot be read: {error}; remove {self._kept_in} to have the stage done anew"
                raise CorruptError(text) from None
            self.scores, self.best_epoch = kept.scores, kept.best
            self._best = self.best_score
            self.learner_at = self.best_epoch if self._is_over() else len(self.scores)
            self.learner.load(self._state(self.learner_at))
        self._remove_others()

    def _remove_others(self) -> None:
        needed = {self._state(number) for number in (len(self.scores), self.best_epoch)}
        for folder in [*self._kept_in.glob("epoch-*"), *self._kept_in.glob("*.tmp")]:
            if folder not in needed:
                shutil.rmtree(folder, ignore_errors=True)

    def _state(self, number: int) -> Path:
        return self._kept_in / f"epoch-{number:04d}"


def _sync(folder: Path) -> None:
    """Have what lies below the folder on the disk, before a line says that it is there."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())
