"""Commands for the user's own data: write a first description, and look at a source."""

import io
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vldd_dist.cli.console import SafeConsole, say
from vldd_dist.cli.options import Description, Overrides, require_whole
from vldd_dist.control_characters import is_text, one_line
from vldd_dist.errors import ConfigError, DataError

if TYPE_CHECKING:
    from PIL import Image

    from vldd_dist.config.experiment import Experiment
    from vldd_dist.data.preparation.survey import Survey


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for experiment.yaml; created if it does not exist.")],
    location: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="PATH",
            help="The images and captions: a folder, a table, a JSON file, tars, or a data set on the hub (OWNER/NAME).",
        ),
    ],
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Weights of the image tower, mobilenetv2_100: a .safetensors file or its URL, for a machine without the hub.",
        ),
    ] = None,
) -> None:
    """Look at your images and captions, and write a first description that runs."""
    from vldd_dist.cli.first_experiment import check_weights, describe_experiment, is_offline
    from vldd_dist.config.base import CREDENTIALS_REFUSED, carries_credentials, choose
    from vldd_dist.config.loading.load import load_experiment
    from vldd_dist.data.preparation.groups import small_splits
    from vldd_dist.data.recognise import recognise
    from vldd_dist.plugins import SOURCES
    from vldd_dist.store.backends.local_files import replace_file

    for given in (str(folder), location, weights or ""):
        require_whole(given)
    path = folder / "experiment.yaml"
    # Unlike `Path.exists`, it does not raise if a folder cannot be entered.
    if os.path.exists(path):
        raise ConfigError(f"{path} already exists: name another folder, or remove it")
    for option, value in (("--from", location), ("--weights", weights)):
        if carries_credentials(value):
            raise ConfigError(f"{option}: {CREDENTIALS_REFUSED}")
    if weights is not None and not is_text(weights):
        raise ConfigError(f"--weights {one_line(weights)}: its path is not UTF-8, so no description can name it: rename it")
    found = recognise(location)
    say(f"{found.what}.")
    source = choose(SOURCES, found.source)
    if source.would_include(str(folder)):
        raise ConfigError(f"{folder} lies in the data, and its files would become data: name a folder outside {location}")
    for split in source.own_splits():
        source.check(split)
    if weights is not None:
        check_weights(weights)
    text = describe_experiment(found, source, str(folder), weights)
    try:
        described = text.encode()
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(str(path), described)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}: name another folder") from None
    except UnicodeEncodeError:
        raise ConfigError(f"{path} cannot be written, because a file name is not UTF-8: rename the file") from None
    loaded = load_experiment(path).data
    if notes := small_splits(loaded):
        fractions = [f"data.split.{split}" for split in loaded.carved() if split in notes]
        say(f"{' '.join(notes.values())} Use more images{', or raise ' if fractions else ''}{' and '.join(fractions)}.")
    if weights is None and is_offline():
        say(f"HF_HUB_OFFLINE is set: a tiny image tower with random weights; for good results see the comment in {path}.")
    say(f"{path} is written. Look at the data, then run it:")
    description = shlex.quote(str(path))
    say(f"  vldd data {description}\n  vldd run {description} --store {shlex.quote(str(folder / 'store'))}")


def data(
    config: Description,
    overrides: Overrides = None,
    limit: Annotated[int, typer.Option(min=1, help="The number of samples to read from each split.")] = 1000,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write data.html and contact-sheet.png into this folder.")
    ] = None,
) -> None:
    """Show what the source of an experiment or study contains: counts, captions, sizes, unreadable samples, some images."""
    from vldd_dist.config.loading.descriptions import load_description
    from vldd_dist.data.preparation.groups import carved_splits, limited_splits, small_splits
    from vldd_dist.data.preparation.survey import remarks

    if out is not None:
        require_whole(str(out))
    described = load_description(config, overrides)
    settings, *others = described.experiments.values()
    if any(_shown(other) != _shown(settings) for other in others):
        raise ConfigError(
            f"{config}: the variants of this study do not have the same data: look at those of one, "
            f"`vldd config {config} --variant NAME > one.yaml`"
        )
    source, surveys = settings.data.source, _surveys(settings, limit)
    mirrors = any(experiment.experts.mirrors for experiment in described.experiments.values())
    split_notes = [*carved_splits(settings.data), *settings.data.ignored_fractions(), *limited_splits(settings.data)]
    split_notes += small_splits(settings.data).values()
    notes = [*split_notes, *remarks(surveys, settings.data.max_bad_fraction, mirrors=mirrors)]
    notes += _cut_captions([settings, *others], surveys)
    _print(f"{described.name}: {source.label}", surveys, notes)
    if out is not None:
        _write(out, f"{described.name}: {source.name}", surveys, notes)
        say(f"{out / 'data.html'} and {out / 'contact-sheet.png'} are written.")


def _shown(experiment: "Experiment") -> tuple[object, ...]:
    """What of a description this page depends on."""
    data = experiment.data
    drawn = (experiment.seed, data.image_size) if data.source.draws_images else ()
    return data.source, data.limits, data.split, data.shard_images, data.max_bad_fraction, drawn


def _surveys(experiment: "Experiment", limit: int) -> list["Survey"]:
    """A survey of each of the source's own splits. Raises DataError if one has no readable sample."""
    from vldd_dist.data.preparation.survey import survey

    data = experiment.data
    surveys = [
        survey(
            data.source, split, limit=limit, seed=experiment.seed, image_size=data.image_size, part_samples=data.shard_images
        )
        for split in data.source.own_splits()
    ]
    bad = [result for result in surveys if result.read == result.bad]
    if bad:
        reason = bad[0].errors[0] if bad[0].errors else "it is empty"
        raise DataError(f"data: the {bad[0].split} split has no readable sample: {reason}")
    return surveys


def _cut_captions(experiments: list["Experiment"], surveys: list["Survey"]) -> list[str]:
    """A sentence for each text encoder that gets only the first tokens of some captions; none for one whose tokenizer is not on
    this machine."""
    from vldd_dist.data.facts import cut_captions
    from vldd_dist.models.text.architecture import find_architecture
    from vldd_dist.models.text.tokens import tokens_here

    captions = [caption for survey in surveys for of_image in survey.captions for caption in of_image]
    sentences = []
    # One for each model and number of tokens.
    texts = {(text.model, text.revision, text.max_tokens): text for text in (one.model.text for one in experiments)}
    for text in texts.values():
        cut = sum(count > text.max_tokens for count in tokens_here(text, captions) or ())
        if cut and (architecture := find_architecture(text, ask_hub=False)):
            how_many = f"{cut:,} of {len(captions):,}"
            sentences.append(cut_captions(how_many, text.model, text.max_tokens, architecture.positions))
    return sentences


def _print(title: str, surveys: list["Survey"], notes: list[str]) -> None:
    from rich.table import Table

    from vldd_dist.data.preparation.survey import rows

    table = Table()
    for column in ("", *(result.split for result in surveys)):
        table.add_column(column, justify="right" if column else "left")
    for name, cells in rows(surveys):
        table.add_row(name, *cells)
    console = SafeConsole()
    # Not as the table's title, which would be folded to the width of the table.
    console.print(title, highlight=False, soft_wrap=True)
    console.print(table)
    for note in notes:
        console.print(note, highlight=False, soft_wrap=True)


def _write(folder: Path, title: str, surveys: list["Survey"], notes: list[str]) -> None:
    import numpy as np

    from vldd_dist.data.preparation.survey import contact_sheet, rows
    from vldd_dist.reporting.pages.data_page import DataPage, render_data_page
    from vldd_dist.reporting.pages.pictures import encode_picture
    from vldd_dist.store.backends.local_files import replace_file

    examples = [
        (result.split, [(encode_picture(np.asarray(one).transpose(2, 0, 1)), caption) for one, caption in result.thumbnails])
        for result in surveys
    ]
    page = DataPage(title, [result.split for result in surveys], list(rows(surveys)), notes, examples)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(str(folder / "contact-sheet.png"), _png(contact_sheet(surveys)))
        replace_file(str(folder / "data.html"), render_data_page(page).encode())
    except OSError as error:
        raise ConfigError(f"--out {folder} cannot be written: {error.strerror}: name another folder") from None


def _png(image: "Image.Image") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
