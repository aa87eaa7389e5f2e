"""Train CLIP-ReID: stage 1 learns a prompt for each identity, stage 2 fine-tunes the image encoder."""

import sys
from collections.abc import Sequence
from functools import partial

import utils.early_signals  # noqa: F401 -- first: Ctrl-C while the packages below are loaded
from configs import load_config
from datasets import check_data, make_dataloader, make_dataset, write_drawn_splits
from datasets.hands.attributes import TEMPLATES, class_names, hand_sentence
from loss import make_loss
from model import METHODS, check_method, check_weights, load_prompts, make_model, set_execution
from processor import (
    do_inference,
    do_train_stage1,
    do_train_stage2,
    do_validation,
    finish_run,
    load_best,
    note_result,
    note_text_results,
    start_run,
)
from processor.html_report import write_report
from solver import make_optimizer_1stage, make_optimizer_2stage, make_scheduler
from utils.command_line import parse_arguments, run_script
from utils.distributed import is_main, main_process_first, on_main_process

EXAMPLE = "python train_clipreid.py --config_file configs/hand/demo.yml OUTPUT_DIR output/demo"


def train(config_file: str, overrides: Sequence[str]) -> None:
    """Run the stages that the configuration names, then evaluate."""
    cfg, notes = load_config(config_file, overrides)
    check_method(cfg)
    run = start_run(cfg, notes)
    with main_process_first():
        check_weights(cfg)
        dataset = make_dataset(cfg)
    check_data(cfg, dataset)
    on_main_process(lambda: write_drawn_splits(dataset, run.output_dir))
    run.check_data(dataset.train)
    loaders = make_dataloader(cfg, dataset)
    counts = dataset.num_train_pids, dataset.num_train_cams, dataset.num_train_views
    names = class_names(cfg, dataset) if METHODS[cfg.MODEL.METHOD].takes_names else ()
    model = make_model(cfg, *counts, dataset.prompt, names).to(run.device)
    set_execution(cfg, model)
    if cfg.MODEL.STAGE1_WEIGHT and 1 not in cfg.SOLVER.STAGES:
        load_prompts(model, cfg.MODEL.STAGE1_WEIGHT)
    evaluate = partial(do_inference, cfg, model, loaders.test, dataset.trials, dataset.camera_rule, run)
    validation = dataset.validation
    validate = partial(do_validation, cfg, model, loaders.validation, validation, run) if validation else None
    run.restore({"model": model})
    if cfg.TEST.BEFORE_TRAINING and cfg.SOLVER.STAGES and not run.position.stage:
        note_result(cfg, run, dataset, "untrained", evaluate())

    if 1 in cfg.SOLVER.STAGES:
        optimizer = make_optimizer_1stage(cfg, model)
        scheduler = make_scheduler(cfg.SOLVER.STAGE1, optimizer)
        do_train_stage1(cfg, model, loaders.stage1, optimizer, scheduler, run)

    if 2 in cfg.SOLVER.STAGES:
        criterion = make_loss(cfg, model.num_classes, model.feature_width).to(run.device)
        optimizer, center_optimizer = make_optimizer_2stage(cfg, model, criterion.center)
        scheduler = make_scheduler(cfg.SOLVER.STAGE2, optimizer)
        optimizers = [o for o in (optimizer, center_optimizer) if o is not None]
        do_train_stage2(
            *(cfg, model, loaders.stage2, criterion, optimizers, scheduler, run, evaluate, validate),
            plain_loader=loaders.stage1,
        )

    if run.best:
        note_result(cfg, run, dataset, "trained", evaluate())
        load_best(cfg, model, run)
    outcome = evaluate()
    if not cfg.SOLVER.STAGES:
        note_text_results(cfg, run, dataset, outcome, model, hand_sentence, TEMPLATES)
    name = ("best" if run.best else "trained") if cfg.SOLVER.STAGES else "zero-shot"
    finish_run(cfg, run, dataset, name, outcome, model, loaders.test)
    if is_main():
        write_report(run.output_dir, recipe=config_file)
    run.finish()


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    arguments = parse_arguments(__doc__, EXAMPLE, argv)
    return run_script(partial(train, arguments.config_file, arguments.opts))


if __name__ == "__main__":
    sys.exit(main())
