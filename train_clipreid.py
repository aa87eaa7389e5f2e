"""Train a method. CLIP-ReID: stage 1 learns a prompt for each identity, stage 2 fine-tunes the image encoder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import configs.early_answers  # noqa: F401 -- first: --help, a wrong configuration and Ctrl-C before torch is loaded
from configs import load_config
from configs.command_lines import training_arguments
from datasets import add_fields, captions_of, check_data, classes_of, make_dataloader, make_dataset, write_drawn_splits
from datasets.hands.attributes import TEMPLATES, class_names, hand_sentence
from model import (
    METHODS,
    CaptionReader,
    DataFacts,
    check_method,
    check_weights,
    load_prompts,
    make_model,
    set_execution,
)
from processor import (
    SentenceData,
    check_performance,
    do_inference,
    do_train_stage0,
    do_train_stage1,
    do_train_stage2,
    do_validation,
    evaluate_targets,
    finish_run,
    load_best,
    make_targets,
    note_prompt_words,
    note_result,
    note_text_results,
    start_run,
)
from processor.html_report import write_report
from solver import make_optimizers, make_scheduler
from utils.compute.distributed import is_main, main_process_first, on_main_process
from utils.console.command_line import run_script

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from datasets.bases import ReIDDataset


def train(config_file: str, overrides: Sequence[str]) -> None:
    """Run the stages that the configuration names, then evaluate."""
    cfg, notes = load_config(config_file, overrides)
    check_method(cfg)
    needs = METHODS[cfg.MODEL.METHOD].needs(cfg, training=True)
    run = start_run(cfg, notes)
    with main_process_first():
        check_weights(cfg)
        dataset = make_dataset(cfg)
        add_fields(cfg, dataset, needs)
    check_data(cfg, dataset)
    check_performance(cfg, dataset)
    on_main_process(lambda: write_drawn_splits(dataset, run.output_dir))
    run.check_data(dataset.train, dataset.reading.windows)
    targets = make_targets(cfg, run)
    facts, captions, sentences = facts_of(cfg, dataset), None, None
    if "caption" in needs:
        captions = captions_of(cfg, dataset)
        classes = classes_of(cfg, dataset, captions) if "attributes" in needs else None
        sentences = CaptionReader(captions.draw, captions.sentences, classes and classes.labels)
        facts = replace(facts, attributes=classes.sentences if classes else ())
    loaders = make_dataloader(cfg, dataset, sentences)
    model = make_model(cfg, facts).to(run.device)
    set_execution(cfg, model)
    if cfg.MODEL.STAGE1_WEIGHT and 1 not in cfg.SOLVER.STAGES:
        load_prompts(model, cfg.MODEL.STAGE1_WEIGHT)
    evaluate = partial(do_inference, cfg, model, loaders.test, dataset, run)
    validation = dataset.validation
    validate = partial(do_validation, cfg, model, loaders.validation, validation, run) if validation else None
    run.restore({"model": model})
    if cfg.TEST.BEFORE_TRAINING and cfg.SOLVER.STAGES and not run.position.epoch:
        note_result(cfg, run, dataset, "untrained", evaluate())

    for stage in METHODS[cfg.MODEL.METHOD].stages:
        if stage.number not in cfg.SOLVER.STAGES:
            continue
        optimizers = make_optimizers(cfg, model, stage.number)
        given = (optimizers, make_scheduler(cfg.SOLVER[f"STAGE{stage.number}"], optimizers), run)
        if stage.cached:
            do_train_stage1(cfg, model, stage, loaders.plain, *given)
            continue
        batches = (loaders.augmented(stage.number), *given, evaluate, validate, loaders.plain)
        if stage.number == 0 and captions is not None:
            do_train_stage0(cfg, model, stage, SentenceData(dataset, captions, loaders.test, TEMPLATES), *batches)
        else:
            do_train_stage2(cfg, model, stage, *batches)

    if run.best:
        note_result(cfg, run, dataset, "trained", evaluate())
        load_best(cfg, model, run)
    outcome = evaluate()
    if not cfg.SOLVER.STAGES:
        note_text_results(cfg, run, dataset, outcome, model, hand_sentence, TEMPLATES)
    name = ("best" if run.best else "trained") if cfg.SOLVER.STAGES else "zero-shot"
    note_prompt_words(run, dataset, model, TEMPLATES)
    finish_run(cfg, run, dataset, name, outcome, model, loaders.test, evaluate_targets(targets, model, run))
    if is_main():
        write_report(run.output_dir, recipe=config_file)
    run.finish()


def facts_of(cfg: CfgNode, dataset: ReIDDataset) -> DataFacts:
    """What a model is built for."""
    return DataFacts(
        identities=dataset.num_train_pids,
        cameras=dataset.num_train_cams,
        views=dataset.num_train_views,
        images=len(dataset.train),
        names=tuple(class_names(cfg, dataset)),
        sentence=dataset.prompt,
        sources=dataset.num_train_sources,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    arguments = training_arguments(argv)
    return run_script(partial(train, arguments.config_file, arguments.opts))


if __name__ == "__main__":
    sys.exit(main())
