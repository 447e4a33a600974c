"""The only training loop. An SSL trainer is an nnU-Net trainer; a plugin gives it a method and a recipe.

    class DeSDTrainer(SSLTrainer):
        method = DeSD
        recipe = Recipe(...)

Each override below replaces a hook of nnU-Net that assumes segmentation, and calls modules of `nnssl.engine`. The loop
itself is `run_training`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnssl.blocks.collectives import rank, world_size
from nnssl.encoders.factory import PlanNetworks
from nnssl.engine import checkpoint, distributed, optim
from nnssl.engine.feed import Feed
from nnssl.engine.gate import PATIENCE, Gate
from nnssl.engine.health import HealthProbe
from nnssl.engine.journal import Journal
from nnssl.engine.memory import keep_freed_memory
from nnssl.engine.plan import check_batch, check_views, plan_info
from nnssl.engine.recipe import Recipe
from nnssl.engine.run_folder import FINAL, NEWEST, RunFolder, RunOptions
from nnssl.engine.saving import SaveClock
from nnssl.engine.schedules import Extension
from nnssl.engine.signals import StopRequest
from nnssl.engine.step import StepRunner
from nnssl.engine.weights import load_weights
from nnssl.errors import RecipeError, UsageError
from nnssl.method import Method


class SSLTrainer(nnUNetTrainer):  # type: ignore[misc]
    """Trains a `Method` on unlabelled cases. Subclasses set class attributes and nothing else.

    Attributes:
        method: what is trained.
        recipe: the preset `default`.
        presets: further presets by name; `paper` is the published one.
        options: how this run was asked for; may be set before `initialize`.
        steps_done: optimizer steps taken so far, earlier sessions included.
    """

    method: ClassVar[type[Method]]
    recipe: ClassVar[Recipe] = Recipe()
    presets: ClassVar[Mapping[str, Recipe]] = {}

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int | str,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008  nnU-Net's own signature, which it inspects
    ) -> None:
        if not str(fold).startswith("all"):
            raise UsageError(f"Pretraining uses every case; give the fold `all` instead of {fold}.")
        self.journal: Journal | None = None
        self._unsaid: list[str] = []
        continue_run = bool(plans.setdefault("continue_training", False))  # nnU-Net takes it out of the plans
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.local_rank = distributed.local_rank()
        # The base class takes cuda:GLOBAL_RANK for granted as soon as there is a process group.
        self.device = torch.device("cuda", self.local_rank) if device.type == "cuda" else device
        self.grad_scaler = None
        self.options = RunOptions.from_environment(continue_run=continue_run)
        self.steps_done = 0
        self.extensions: list[Extension] = []
        self.probe: HealthProbe | None = None

    def print_to_log_file(self, *words: object, **_: object) -> None:
        """A sentence for the log. Kept until the folder is ours, so that a refused start leaves no trace in it."""
        sentence = " ".join(str(word) for word in words).strip()
        if self.journal is not None:
            self.journal.say(sentence)
        elif sentence:
            self._unsaid.append(sentence)

    # ------------------------------------------------------------------------------------------------ set up

    def initialize(self) -> None:
        """Resolve the recipe, open the data, build the method. Writes nothing."""
        self.folder = RunFolder(Path(self.output_folder))
        recipe = self.run_recipe = self.folder.recipe_for(type(self), self.options, self.device)
        self.num_epochs, self.num_iterations_per_epoch = recipe.epochs, recipe.steps_per_epoch
        distributed.set_threads(recipe.threads, self.device, deterministic=self.options.deterministic)
        if self.device.type == "cpu":
            keep_freed_memory()
        needs = self.method.needs(recipe.method)
        check_batch(needs, recipe, ranks=world_size())
        self.batch_size = distributed.samples_per_micro_batch(recipe.batch_size, recipe.accumulate)
        configuration = self.configuration_manager.configuration
        self.num_input_channels = len(self.plans_manager.foreground_intensity_properties_per_channel)
        plan = plan_info(configuration, channels=self.num_input_channels, patch_size=recipe.patch_size)
        names = [self.plans_manager.dataset_name, *self.options.datasets]
        home = Path(self.preprocessed_dataset_folder_base).parent
        folders = [home / name / self.configuration_manager.data_identifier for name in names]
        asked = type(self).__name__ + (f" --preset {self.options.preset}" if self.options.preset else "")
        self.feed = Feed(folders, mix=self.options.mix, needs=needs, recipe=recipe, trainer=asked)
        views = self.method.views(recipe.method, plan, self.feed.info)
        check_views(views, plan, needs)
        self.feed.describe(views, plan)
        torch.manual_seed(recipe.seed)  # of the initial weights
        networks = PlanNetworks(configuration["architecture"], plan, self.feed.info, compile=self._do_i_compile())
        self.network: Method = self.method(recipe.method, networks).to(self.device)
        if recipe.precision == "fp64":
            self.network.double()
        self.network.train()
        self.was_initialized = True

    def _do_i_compile(self) -> bool:
        """Encoders are compiled on request (nnUNet_compile=t): views of several sizes would compile again and again."""
        return "nnUNet_compile" in os.environ and bool(super()._do_i_compile())

    def on_train_start(self) -> None:
        """Take the folder, restore or start, and look at the untrained network."""
        if not self.was_initialized:
            self.initialize()
        if rank() == 0:
            if self.options.continue_run:
                self.folder.check_data(self.feed.identity)
                self.folder.check_plans(self.plans_manager.plans)
            self.folder.hold()
        distributed.wait_for_all()
        state = None
        if self.options.continue_run:
            state = checkpoint.load_state(self.folder.path, say=self.print_to_log_file)
        self._build_runner(state)
        self._open_journal(state)
        if rank() == 0:
            self._write_identity()
        self.stream = self.get_dataloaders()
        self.clock = SaveClock(self.run_recipe.save_every_minutes)
        self._measure_health()

    def get_dataloaders(self) -> Any:
        """The stream of views: `batch(index, micro)` of this rank."""
        return self.feed.stream(self.device, workers=self.options.workers)

    def _build_runner(self, state: checkpoint.State | None) -> None:
        """Optimizer and schedules; with a state, everything goes on as it was."""
        recipe, total = self.run_recipe, self.run_recipe.total_steps
        if state is not None:
            self.steps_done = int(state["step"])
            self.extensions = [Extension(*pair) for pair in state["extensions"]]
            if total < self.steps_done:
                raise RecipeError(
                    f"epochs={recipe.epochs} ends at step {total}, but {self.steps_done} steps are done; use epochs="
                    f"{-(-self.steps_done // recipe.steps_per_epoch)} or more."
                )
            if total != state["total_steps"]:
                self.extensions.append(Extension(step=self.steps_done, total_before=int(state["total_steps"])))
        self.current_epoch = self.steps_done // recipe.steps_per_epoch
        schedule = optim.Schedule(recipe, extensions=self.extensions)
        self.runner = StepRunner(self.network, recipe=recipe, schedule=schedule, device=self.device)
        self.optimizer = self.runner.optimizer
        self.gate = Gate(self.device, drops_allowed=PATIENCE if self.runner.precision == "fp16" else 0)
        if state is not None:
            self.network.load_state_dict(state["method"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.runner.scale.load_state_dict(state["scale"])
        elif self.options.weights is not None:
            self.print_to_log_file(load_weights(self.network, Path(self.options.weights)))

    def _open_journal(self, state: checkpoint.State | None) -> None:
        recipe = self.run_recipe
        self.journal = Journal(
            self.folder.path,
            total_steps=recipe.total_steps,
            steps_per_epoch=recipe.steps_per_epoch,
            enabled=rank() == 0,
            start_step=self.steps_done,
            log_file=Path(self.log_file),
        )
        if rank() == 0:
            self.probe = self.feed.probe(self.device)
        for sentence in [*self._unsaid, *self.feed.sentences]:
            self.journal.say(sentence)
        if state is not None:
            self.journal.load_state_dict(state["journal"])
            if self.probe is not None and state["health"] is not None:
                self.probe.load_state_dict(state["health"])
            self.journal.say(f"Continuing at step {self.steps_done} of {recipe.total_steps}.")
            if state["world_size"] != world_size():
                self.journal.say(
                    f"The run had {state['world_size']} ranks and now has {world_size()}: the same samples and "
                    f"mathematics, but sums are rounded in another order."
                )
        elif self.options.continue_run:
            self.journal.say(f"There is no saved state in {self.folder.path}; starting from the beginning.")
        values = sum(p.numel() for p in self.network.parameters() if p.requires_grad)
        self.journal.say(
            f"Training {type(self).__name__}, {values} values, on {self.device} in {self.runner.precision}, "
            f"{world_size()} rank(s), batch size {recipe.batch_size}, {recipe.total_steps} steps."
        )

    def _write_identity(self) -> None:
        """recipe.json, plans.json and dataset.json, here and where nnU-Net's tools look for them."""
        self.folder.write_identity(
            trainer=type(self).__name__,
            preset=self.options.preset or "default",
            recipe=self.run_recipe,
            data=self.feed.identity,
            weights=self.options.weights,
        )
        for name, content in (("plans.json", self.plans_manager.plans), ("dataset.json", self.dataset_json)):
            self.folder.write_json(name, content)
            RunFolder(self.folder.path.parent).write_json(name, content)

    # ------------------------------------------------------------------------------------------------ the loop

    def run_training(self) -> None:
        """Train to the end, or until asked to stop.

        Raises:
            SystemExit: the run was asked to stop and left in good order; 128 + the signal's number.
            TrainingDiverged: a loss or gradient was not finite.
            DeviceError: another rank is gone or hangs.
        """
        try:
            self._train()
        finally:
            self._close()

    def _train(self) -> None:
        """The steps, after what comes before them and before what comes after them."""
        with distributed.all_ranks_or_none():
            self.on_train_start()
            with StopRequest(loud=rank() == 0) as self.request:
                for index in range(self.steps_done, self.run_recipe.total_steps):
                    self.train_step(index)
                    self.steps_done = index + 1
                    epoch_end = self.steps_done % self.run_recipe.steps_per_epoch == 0
                    if epoch_end:
                        self.on_epoch_end()
                    if self.gate.stop:
                        self._leave()
                    if rank() == 0 and self.clock.due(epoch_end=epoch_end):
                        self.save_checkpoint(publish=epoch_end)
                self.on_train_end()

    def train_step(self, index: int) -> None:
        """One optimizer step, entered into the journal and queued for its verdict."""
        began, waited = time.perf_counter(), self.stream.waited_seconds
        outcome = self.runner(
            index,
            partial(self.stream.batch, index),
            stop=bool(self.request.received),
            observe=None if self.probe is None else self.probe.observe,
        )
        scalars: dict[str, torch.Tensor | float] = {
            **outcome.losses,
            **outcome.watched,
            **outcome.rates,
            "gradient_norm": outcome.gradient_norm,
        }
        if self.journal is not None:
            self.journal.step(
                index,
                scalars,
                seconds=time.perf_counter() - began,
                waited_seconds=self.stream.waited_seconds - waited,
            )
        self.gate.put(index, applied=outcome.applied, stop=outcome.stop, losses=outcome.losses, cases=outcome.cases)

    def on_epoch_end(self) -> None:
        """Curves and health."""
        self._measure_health()
        if self.journal is not None:
            self.journal.epoch_end(self.current_epoch)
        self.current_epoch += 1

    def on_train_end(self) -> None:
        """Save the last state, publish the weights, say what to do with them."""
        self.gate.settle()
        if rank() == 0:
            self.save_checkpoint()
            if not self.disable_checkpointing:
                self._publish(FINAL, final=True)
                from nnssl.export.next_commands import next_commands

                encoder, weights = self.network.export_network().encoder, self.folder.path / FINAL
                for sentence in next_commands(encoder, weights, self.plans_manager.plans):
                    self.print_to_log_file(sentence)
        distributed.wait_for_all()

    def _leave(self) -> None:
        """Save and end the process, on all ranks after the same step."""
        self.gate.settle()
        if rank() == 0:
            self.save_checkpoint()
            self.print_to_log_file(f"Asked to stop: the state after step {self.steps_done} is saved; go on with --c.")
        distributed.wait_for_all()
        raise SystemExit(self.request.exit_code)

    def _measure_health(self) -> None:
        if self.probe is None or self.journal is None or not self.probe.due(self.steps_done):
            return
        report = self.probe.measure(self.network, self.steps_done)
        self.journal.health(report.step, report.values, light=report.light, sentences=report.sentences)
        self.probe.write(self.folder.path)

    # ------------------------------------------------------------------------------------------------ state and weights

    def save_checkpoint(self, filename: str | None = None, *, publish: bool = False) -> None:
        """Save the training state, unless a verdict still to be read condemns it; on rank 0.

        Args:
            filename: nnU-Net's argument; the state has its own names.
            publish: also write `pretrained_latest.pth`.
        """
        if self.disable_checkpointing or not self.gate.sound():
            return
        self.folder.check_held()
        began = time.monotonic()
        checkpoint.save_state(self.folder.path, self._state())
        if publish:
            self._publish(NEWEST, final=False)
        self.clock.saved(seconds=time.monotonic() - began)

    def _state(self) -> checkpoint.State:
        return {
            "trainer": type(self).__name__,
            "recipe_hash": self.run_recipe.digest(),
            "step": self.steps_done,
            "total_steps": self.run_recipe.total_steps,
            "world_size": world_size(),
            "extensions": [[extension.step, extension.total_before] for extension in self.extensions],
            "method": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scale": self.runner.scale.state_dict(),
            "journal": self.journal.state_dict() if self.journal is not None else None,
            "health": self.probe.state_dict() if self.probe is not None else None,
        }

    def load_checkpoint(self, filename_or_checkpoint: object) -> None:
        """Nothing: stock nnU-Net calls this for `--c`, and `on_train_start` restores the training state itself."""

    def _publish(self, name: str, *, final: bool) -> None:
        from nnssl.export.checkpoint import publish

        report = publish(
            self.folder.path / name,
            exported=self.network.export_network(),
            plans=self.plans_manager.plans,
            configuration=self.configuration_name,
            dataset_json=self.dataset_json,
            channels=self.num_input_channels,
            provenance={
                "trainer": type(self).__name__,
                "recipe": self.run_recipe.to_json(),
                "recipe_hash": self.run_recipe.digest(),
                "steps": self.steps_done,
                "total_steps": self.run_recipe.total_steps,
                "data": {
                    **self.feed.identity,
                    "orientation": self.feed.orientation,
                    "matchers": self.feed.matchers,
                    "sources": self.feed.sources,
                },
            },
            citations=[
                {"type": "Pretraining method", "name": type(self).__name__, "apa_citations": [self.method.PAPER]}
            ],
            seed=self.run_recipe.seed,
            final=final,
        )
        self.print_to_log_file(str(report))

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Nothing: there are no labels. Stock nnU-Net calls this after the training."""

    def _close(self) -> None:
        """Stop the workers, finish the journal, give the folder free."""
        with ExitStack() as last:  # each is done, in reverse order, whatever becomes of the others
            if hasattr(self, "folder"):
                last.callback(self.folder.release)
            if self.journal is not None:
                last.callback(self.journal.close)
            if hasattr(self, "stream"):
                last.callback(self.stream.close)
