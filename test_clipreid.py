"""Evaluate a trained model on the query and gallery images of a data set."""

import sys
from collections.abc import Sequence
from functools import partial

import configs.early_answers  # noqa: F401 -- first: --help, a wrong configuration and Ctrl-C before torch is loaded
from configs import load_config
from configs.command_lines import test_arguments
from datasets import add_fields, check_data, make_dataloader, make_dataset, write_drawn_splits
from model import METHODS, DataFacts, check_method, check_weights, make_test_model, set_execution, use_start
from processor import check_performance, do_inference, evaluate_targets, finish_run, make_targets, start_run
from processor.html_report import write_report
from utils.compute.distributed import is_main, main_process_first, on_main_process
from utils.console.command_line import run_script


def test(config_file: str, overrides: Sequence[str]) -> None:
    """Load ``TEST.WEIGHT`` and evaluate it; no training images are needed."""
    cfg, notes = load_config(config_file, overrides)
    check_method(cfg)
    run = start_run(cfg, notes, test=True)
    use_start(cfg)
    check_weights(cfg, test=True)
    with main_process_first():
        dataset = make_dataset(cfg, require_train=False)
        add_fields(cfg, dataset, METHODS[cfg.MODEL.METHOD].needs(cfg, training=False))
    check_data(cfg, dataset)
    check_performance(cfg, dataset)
    on_main_process(lambda: write_drawn_splits(dataset, run.output_dir))
    targets = make_targets(cfg, run)
    loaders = make_dataloader(cfg, dataset)
    seen = DataFacts(identities=0, cameras=dataset.num_cameras, views=dataset.num_views)
    model = make_test_model(cfg, seen).to(run.device)
    set_execution(cfg, model)
    evaluation = do_inference(cfg, model, loaders.test, dataset, run)
    on_targets = evaluate_targets(targets, model, run)
    finish_run(cfg, run, dataset, "test", evaluation, model, loaders.test, on_targets)
    if is_main():
        write_report(run.output_dir, test=True, recipe=config_file)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    arguments = test_arguments(argv)
    return run_script(partial(test, arguments.config_file, arguments.opts))


if __name__ == "__main__":
    sys.exit(main())
