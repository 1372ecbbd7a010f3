"""The further steps of a reproduction: tune and train, or describe; then draw, measure, report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from egogen.download.catalogue import GB, MB
from egogen.layout import (
    Layout,
    Split,
    data_root,
    descriptions,
    merged_annotations,
    run_features,
    run_root,
    weights_root,
)
from ldm.reproduction import needs
from ldm.reproduction.needs import Need, working
from ldm.reproduction.released import CLIP
from ldm.reproduction.reproduce_options import CHECKPOINTS, FEATURES, FRAMES, ReproduceOptions
from ldm.reproduction.step import Step

# Bytes of what training keeps: of stage 1 four checkpoints of ZeRO (weights, three states of 32 bits) and the
# result; of stage 2 three checkpoints, the last and the best (weights, average, frozen networks, two states).
KEPT_OF_STAGE_1 = 4 * 13_021_112_320 * (2 + 12) + needs.WEIGHTS_13B
KEPT_OF_STAGE_2 = 5 * 15 * GB
RECORDS = {"ego4d": 3 * 19_200, "epickitchen": 3 * 14_800}  # that stage 1 sees in three epochs, at least
PAIRS_SEEN = 20_000 * 1024  # by stage 2


@dataclass(frozen=True)
class Computing:
    """All that is made, below one folder.

    Args:
        options: what is asked for.
        pairs: of the val split.
    """

    options: ReproduceOptions
    pairs: int

    def steps(self) -> Iterator[Step]:
        """In order."""
        if self.options.taken == FRAMES:
            yield self.tune()
            yield from self.describe("train", self.options.released.train)
            yield from self.describe("val", self.pairs)
            yield self.train()
        elif self.options.taken == CHECKPOINTS:
            yield from self.describe("val", self.pairs)
        yield self.draw()
        yield self.measure()
        yield self.report()

    # --- names and places -------------------------------------------------------------------------

    @property
    def is_paper(self) -> bool:
        """Whether these are as many pairs as the paper's test set: there is no other sign of it."""
        return self.pairs == self.options.released.val

    @property
    def title(self) -> str:
        """Heading of the report: a run on other pairs, or by other models, says so."""
        dataset, count = self.options.dataset, self.options.released.val
        if self.is_paper:
            return f"LEGO on {dataset}, {self.source}"
        by = f", by {self.options.own_names}" if self.options.own else ""
        there = f"the {count:,} of {dataset}'s test set"
        return f"Rehearsal, no result: {self.pairs:,} pairs in place of {there}{by}"

    @property
    def source(self) -> str:
        """Whose the models are, in the words of the title."""
        taken, own = self.options.taken, self.options.own
        if taken == FRAMES:
            return "trained and drawn here"
        if len(own) == 2:
            return f"by {self.options.own_names}"
        whose = f"from the published {taken}"
        if own and taken == CHECKPOINTS:
            whose = f"from the published {'ckpt' if 'vllm' in own else 'vllm'}"
        return f"{whose} and {self.options.own_names}" if own else whose

    @property
    def row(self) -> str:
        """Name of the run in tables."""
        own = self.options.own_names
        if self.is_paper:
            return f"LEGO by {own}" if own else "LEGO, reproduced"
        return f"REHEARSAL of {self.pairs:,} pairs{f' by {own}' if own else ''}"

    @property
    def layout(self) -> Layout:
        """Of the data set."""
        return Layout(data_root(), self.options.dataset)

    @property
    def samples(self) -> Path:
        """The run that is drawn."""
        return self.options.work / "samples" / "lego"

    @property
    def texts(self) -> Path:
        """The val annotations with descriptions: the published ones, or ours."""
        if self.options.taken == FEATURES:
            return self.layout.annotations("val")
        return self.below(merged_annotations(self.options.dataset, "val"))

    def below(self, path: Path) -> Path:
        """A path below RUN_ROOT, as steps know it, whose RUN_ROOT is the folder of this run."""
        return self.options.work / path.relative_to(run_root())

    def step(self, name: str, why: str, words: list[str], need: Need, **variables: str) -> Step:
        """A step that writes to the folder of this run."""
        return Step(name, why, words, need, {**variables, "RUN_ROOT": f"{self.options.work}"})

    def array(self, words: list[str]) -> list[str]:
        """A command, with --slurm as an array that is waited for."""
        if not self.options.slurm:
            return words
        options = ["--wait", *self.options.task_options, f"{self.options.slurm}"]
        return ["bash", "scripts/slurm_array.sh", *options, *words]

    # --- steps ------------------------------------------------------------------------------------

    def tune(self) -> Step:
        """Stage 1."""
        dataset, gpus = self.options.dataset, self.options.devices
        need = working(self.options.work, KEPT_OF_STAGE_1, needs.TUNE, RECORDS[dataset], gpus)
        words = ["bash", f"scripts/finetune_{dataset}.sh"]
        return self.step(
            "finetune", "stage 1: tune LLaVA on the curated texts", words, need, NPROC=f"{max(gpus, 1)}"
        )

    def train(self) -> Step:
        """Stage 2."""
        gpus = self.options.devices
        need = working(self.options.work, KEPT_OF_STAGE_2, needs.TRAIN, PAIRS_SEEN, gpus)
        config = f"configs/train_{self.options.released.config}.yaml"
        words = ldm("python", "main.py", "--name", "lego", "--base", config, "--train")
        words += ["--gpus", ",".join(map(str, range(gpus))) + ","] if gpus else []
        return self.step("train", "stage 2: train the diffusion model", words, need)

    def describe(self, split: Split, count: int) -> Iterator[Step]:
        """Stage 1 on a split; the parts of an array are joined afterwards."""
        options, dataset = self.options, self.options.dataset
        need = working(options.work, count * needs.FEATURES, needs.DESCRIBE, count, options.lanes)
        words = ["bash", "scripts/describe.sh", dataset, split]
        variables = {}
        if options.taken == CHECKPOINTS:
            variables["MODEL"] = f"{options.model()}"
            words += [] if options.vllm else ["--vision-tower", f"{weights_root() / CLIP}"]
        words += options.device
        if options.devices > 1 and not options.slurm:
            variables["NPROC"] = f"{options.devices}"
        why = f"stage 1: describe the {split} frames, keep the features"
        yield self.step(f"describe-{split}", why, self.array(words), need, **variables)
        if options.slurm:
            merge = ["bash", "scripts/run.sh", "vllm", "python", "-m", "llava.merge"]
            merge += ["--save-path", f"{self.below(descriptions(dataset, split))}"]
            merge += ["--edits", f"{self.layout.annotations(split)}"]
            merge += ["--out", f"{self.below(merged_annotations(dataset, split))}"]
            yield self.step(f"merge-{split}", "stage 1: join the parts", merge, Need(options.work, 100 * MB))

    def draw(self) -> Step:
        """The val frames, in the table's setting."""
        options = self.options
        need = working(options.work, self.pairs * needs.FRAME, needs.DRAW, self.pairs, options.lanes)
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", f"{options.devices}"]
        trained = options.work / f"logs/train_{options.released.config}_lego/checkpoints/last.ckpt"
        words = ldm(
            "python", *(launch if options.devices > 1 and not options.slurm else ()), "-m", "ldm.sample",
            "--config", f"configs/generate_{options.released.config}.yaml",
            "--ckpt", f"{trained if options.taken == FRAMES else options.diffusion()}",
            "--out", f"{self.samples}", *options.device,
        )  # fmt: skip
        words += [f"data.features={run_features()}"] if options.taken == FEATURES else []
        return self.step("draw", "stage 2: draw the val frames", self.array(words), need)

    def measure(self) -> Step:
        """By one process: the networks of metrics are small."""
        options = self.options
        need = working(options.work, 100 * MB, needs.MEASURE, self.pairs, min(options.lanes, 1))
        words = ldm(
            "python", "-m", "ldm.evaluate", "--dataset", options.dataset, "--gen_path", f"{self.samples}",
            "--gt_path", f"{self.layout.metric_targets}", "--edit_file", f"{self.texts}",
            "--metrics", ",".join(options.measured), "--name", self.row, "--published", options.dataset,
            *options.device,
        )  # fmt: skip
        task = ["srun", "--quit-on-interrupt", *options.task_options] if options.slurm else []
        return self.step(options.measuring("measure"), "measure against the true frames", task + words, need)

    def report(self) -> Step:
        """Pictures, and the row beside the paper's."""
        dataset, work = self.options.dataset, self.options.work
        words = ldm(
            "python", "-m", "ldm.report", f"{self.samples}", "--out", f"{work / 'report'}",
            "--title", self.title, "--published", dataset,
            "--annotations", f"{self.texts}", "--frames", f"{self.layout.frames('val')}",
        )  # fmt: skip
        return self.step(
            self.options.measuring("report"), "the row beside the paper's", words, Need(work, 50 * MB)
        )


def ldm(*words: str) -> list[str]:
    """A command in the environment of stage 2."""
    return ["bash", "scripts/run.sh", "ldm", *words]
