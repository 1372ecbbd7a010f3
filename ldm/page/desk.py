"""Where requests go: to stage 1 if a description is wanted, then to the drawing, then back with a picture."""

from __future__ import annotations

import base64
import io
import logging
import shutil
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from jaxtyping import Float
from PIL import Image
from torch import Tensor

import ldm
from egogen.errors import UserError
from ldm.page.engine import Engine, PageCancelledError, Wanted, glimpse
from ldm.page.frame_settings import command
from ldm.page.jobs import Job, Told
from ldm.page.photos import Limits, Photo, decode_photo
from ldm.page.shelf import Shelf
from ldm.page.stage_one_worker import StageOneCancelledError, StageOneWorker
from ldm.page.waiting import FullError, Line
from ldm.sampling.asking import ACTION, CLIP
from ldm.sampling.editing import Condition, with_features

log = logging.getLogger(__name__)
PHOTOS, PHOTO_BYTES, FRAME_BYTES = 256, 10**9, 10**9  # that are kept
GLIMPSES = 0.25  # of the time of a drawing that may go into showing it
PATIENCE = 10.0  # seconds for what is being made to end


class Desk:
    """The two lines, the networks behind them, and what was uploaded and drawn.

    Args:
        engine: draws.
        worker: describes; None where descriptions are typed by hand.
        folder: the page's own.
    """

    def __init__(self, engine: Engine, worker: StageOneWorker | None, folder: Path) -> None:
        options = engine.options
        self.engine, self.worker, self.features = engine, worker, folder / "features"
        self.limits = Limits(options.max_mb, options.max_megapixels)
        self.examples: Shelf[Photo] = Shelf(folder / "examples", PHOTOS, PHOTO_BYTES)
        self.photos: Shelf[Photo] = Shelf(folder / "photos", PHOTOS, PHOTO_BYTES)
        self.frames: Shelf[Told] = Shelf(folder / "frames", options.keep, FRAME_BYTES)
        self.describing: Line[Job] = Line("describe", self.describe, 1)
        self.drawing: Line[Job] = Line("draw", self.draw, engine.batch)
        self.going: set[Job] = set()

    def find(self, name: str) -> tuple[Photo, Path]:
        """A photo or an example.

        Raises:
            UserError: it is not kept.
        """
        for shelf in (self.examples, self.photos):
            photo = shelf.get(name)
            if photo is not None:
                return photo, shelf.path(name)
        raise UserError("this photo is not here any more; upload it again")

    @property
    def waiting(self) -> int:
        """How many wait, in both lines."""
        return len(self.describing.waiting) + len(self.drawing.waiting)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Lets jobs in, all or none.

        Raises:
            FullError: too many wait.
        """
        waiting, most = self.waiting, self.engine.options.max_waiting
        if waiting + len(jobs) > most:
            raise FullError(
                f"{waiting} frames are waiting, of {most} that may; try again in a minute"
                + (", or ask for fewer at once" if len(jobs) > 1 else "")
            )
        described = [job for job in jobs if job.plan is None or job.plan.asks_stage_one]
        self.going.update(jobs)
        self.describing.join(described)
        self.drawing.join([job for job in jobs if job not in described])

    def cancel(self, job: Job) -> None:
        """Takes a job out of its line, or has what is being made of it stopped."""
        job.cancelled.set()
        if self.describing.leave(job) or self.drawing.leave(job):
            self.clear(job)
            job.say("cancelled")
        self.going.discard(job)

    def clear(self, job: Job) -> None:
        """Removes stage 1's features of a job, if there are any."""
        shutil.rmtree(self.features / job.id, ignore_errors=True)

    def describe(self, jobs: Sequence[Job]) -> None:
        """Has stage 1 write the description of a job, or make the features of the one that is there."""
        (job,) = jobs
        if job.cancelled.is_set():
            return job.say("cancelled")
        assert self.worker is not None
        _, path = self.find(job.photo)
        settings = job.settings
        question: Told = {
            "id": job.id,
            "photo": str(path),
            "action": settings.action,
            "seed": settings.seed,
            "item": [CLIP, ACTION],
            "text": settings.description if job.plan else None,
            "folder": str(self.features / job.id) if job.plan else None,
        }
        try:
            job.text = self.worker.ask(question, job.on_text, job.on_note, job.cancelled)
        except StageOneCancelledError:
            self.clear(job)
            return job.say("cancelled")
        except Exception:
            self.clear(job)
            raise
        if job.plan is None:
            return job.say("done", text=job.text)
        job.on_text(job.text)
        self.drawing.join([job])
        if job.cancelled.is_set():
            self.cancel(job)
        return None

    def draw(self, jobs: Sequence[Job]) -> None:
        """Draws the frames of jobs of one kind together."""
        ready: list[tuple[Job, Wanted]] = []
        for job in jobs:
            try:
                if job.cancelled.is_set():
                    raise PageCancelledError
                ready.append((job, self.wanted(job)))
            except Exception as error:  # noqa: BLE001 - each job's failure is its own
                job.fail(error)
            finally:
                self.clear(job)
        if not ready:
            return
        plan = ready[0][0].plan
        assert plan is not None
        made: Sequence[Image.Image | Exception]
        try:
            made = self.engine.draw(plan, [wanted for _, wanted in ready], partial(watch, ready))
        except Exception as error:  # noqa: BLE001 - that nobody waits any more, too
            made = [error] * len(ready)
        for (job, wanted), frame in zip(ready, made, strict=True):
            try:
                self.hand_out(job, wanted, frame)
            except Exception as error:  # noqa: BLE001 - each job's failure is its own
                job.fail(error)

    def wanted(self, job: Job) -> Wanted:
        """What a job's frame is drawn from.

        Raises:
            UserError: its photo is gone, or stage 1's features are not as they must be.
        """
        plan = job.plan
        assert plan is not None
        _, path = self.find(job.photo)
        condition = Condition(plan.options.prompt)
        if plan.asks_stage_one:
            folder = self.features / job.id
            condition = with_features(job.text, folder / "image.npy", folder / "text.npy", plan.method.width)
        picture, _ = decode_photo(path.read_bytes(), self.limits)
        return Wanted(picture, condition, job.settings.seed)

    def hand_out(self, job: Job, wanted: Wanted, frame: Image.Image | Exception) -> None:
        """Keeps a frame, and tells where it is and what it was drawn with; raises what came in its place."""
        if isinstance(frame, Exception):
            raise frame
        if job.cancelled.is_set():
            raise PageCancelledError
        plan = job.plan
        assert plan is not None
        photo, _ = self.find(job.photo)
        settings: Told = {
            **job.settings.model_dump(),
            "method": plan.method.name,
            "preset": plan.options.preset,
            "photo": job.photo,
            "drawn": {
                "text": wanted.condition.text,
                "steps": plan.sampling.steps,
                "scheduler": plan.sampling.scheduler,
                "text_guidance": plan.sampling.scales_txt[0],
                "image_guidance": plan.sampling.scales_img[0],
                "size": plan.side,
                "width": frame.width,
                "height": frame.height,
                "checkpoint": str(plan.method.networks.ckpt),
                "vllm": None if plan.method.networks.vllm is None else str(plan.method.networks.vllm),
                "version": ldm.__version__,
            },
            "command": command(plan.options, f"photo{photo.suffix}"),
        }
        whole = io.BytesIO()
        frame.save(whole, "PNG")
        name = self.frames.put(whole.getvalue(), settings)
        job.say("done", picture=f"/api/frames/{name}.png", settings=settings)

    def close(self) -> None:
        """Stops what is being made."""
        self.describing.close()
        self.drawing.close()
        for job in list(self.going):
            job.cancelled.set()
        if self.worker is not None:
            self.worker.close()
        for line in (self.describing, self.drawing):
            line.thread.join(PATIENCE)


def watch(ready: Sequence[tuple[Job, Wanted]], places: Sequence[int]) -> Watch:
    """Shows the frames at these places."""
    return Watch([ready[place] for place in places])


class Watch:
    """Shows people how their frames come along, as long as that takes a small part of the time alone."""

    def __init__(self, ready: Sequence[tuple[Job, Wanted]]) -> None:
        self.ready, self.began, self.spent = ready, time.monotonic(), 0.0

    def __call__(self, index: int, latents: Float[Tensor, "b 4 h w"]) -> None:
        """Is told of a step.

        Raises:
            PageCancelledError: nobody waits any more.
        """
        if all(job.cancelled.is_set() for job, _ in self.ready):
            raise PageCancelledError
        shown: Sequence[Image.Image | None] = [None] * len(self.ready)
        now = time.monotonic()
        plan = self.ready[0][0].plan
        assert plan is not None
        if self.spent <= GLIMPSES * (now - self.began):
            shown = glimpse(plan, latents, [wanted.photo for _, wanted in self.ready])
            self.spent += time.monotonic() - now
        for (job, _), picture in zip(self.ready, shown, strict=True):
            more = {} if picture is None else {"preview": data_url(picture)}
            job.say("step", step=index + 1, steps=plan.sampling.steps, **more)


def data_url(picture: Image.Image) -> str:
    """A small picture as a text."""
    made = io.BytesIO()
    picture.save(made, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(made.getvalue()).decode()}"
