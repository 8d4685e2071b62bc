"""What the nearest predecessor gets wrong, and which of our tests would fail on each of it.

Fifty defects of sentinel-mlops 1.0.0. A row names tests that fail if we had the defect; a test that
is renamed or dropped makes its row fail here.
"""

import ast
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import pytest

TESTS: Final = Path(__file__).parents[1]


class Check(NamedTuple):
    """What must hold, and where that is shown: ``folder/module.py::test``."""

    must: str
    shown_by: tuple[str, ...]


CHECKS: Final[dict[str, Check]] = {
    "G01": Check(
        "with defaults the first forecast is there within 60 s",
        ("e2e/test_main_job.py::test_with_defaults_the_first_forecast_is_stored_within_a_minute",),
    ),
    "G02": Check(
        "the history that a fit gets does not depend on the lookback",
        ("unit/loop/test_life.py::test_a_fit_gets_the_training_window_and_not_the_lookback",),
    ),
    "G03": Check(
        "no instant is there twice or out of order",
        (
            "e2e/test_main_job.py::test_what_is_expected_lies_on_the_grid_without_a_hole",
            "e2e/test_main_job.py::test_nothing_was_sent_twice_or_out_of_order_or_given_up",
            "unit/cycle/test_cycle.py::"
            "test_replaying_instants_gives_what_the_cycles_would_have_given",
        ),
    ),
    "G04": Check(
        "history is read at the start",
        (
            "unit/loop/test_life.py::test_a_fit_gets_the_training_window_and_not_the_lookback",
            "unit/ingest/test_history.py::test_slices_give_what_one_reading_gives",
        ),
    ),
    "G05": Check(
        "no feature holds the target",
        (
            "unit/models/test_features.py::test_no_row_holds_the_value_it_is_to_forecast",
            "contract/test_models.py::test_what_comes_after_an_origin_changes_no_forecast_from_it",
            "unit/learning/test_training.py::"
            "test_changing_the_held_out_instants_does_not_change_what_was_forecast_for_the_first",
        ),
    ),
    "G06": Check(
        "a straight line goes on",
        (
            "contract/test_models.py::test_a_straight_line_goes_on",
            "e2e/test_main_job.py::test_a_line_goes_on_by_its_slope",
        ),
    ),
    "G07": Check(
        "a constant is forecast at every step and never drifts",
        (
            "contract/test_models.py::test_a_constant_series_is_forecast_exactly",
            "e2e/test_main_job.py::test_a_constant_is_forecast_at_every_step",
            "unit/learning/test_drift.py::test_a_constant_series_forecast_exactly_never_drifts",
        ),
    ),
    "G08": Check(
        "in a recursive step every column stays in its place",
        (
            "unit/models/test_sgd.py::"
            "test_a_recursive_step_builds_its_row_anew_with_every_column_in_its_place",
            "unit/models/test_lags.py::"
            "test_a_forecast_repeats_the_one_step_forecast_on_its_own_output",
        ),
    ),
    "G09": Check(
        "a forecast follows new samples between two fits",
        (
            "contract/test_models.py::test_new_samples_change_the_forecast_without_a_fit",
            "e2e/test_main_job.py::test_forecasts_change_as_samples_arrive",
        ),
    ),
    "G10": Check(
        "what serves was fitted on the newest instants too",
        ("unit/learning/test_training.py::test_what_serves_is_fitted_on_everything",),
    ),
    "G11": Check(
        "the validation error is the one-step error of serving",
        (
            "unit/learning/test_training.py::"
            "test_the_validation_error_is_the_one_step_error_of_serving",
        ),
    ),
    "G12": Check(
        "as many values as steps, the first for the next instant",
        (
            "contract/test_models.py::test_every_series_gets_exactly_as_many_steps_as_asked",
            "unit/cycle/test_cycle.py::"
            "test_expected_at_an_instant_is_the_first_step_of_the_forecast_before_it",
        ),
    ),
    "G13": Check(
        "forecasts are finite at any scale",
        ("contract/test_models.py::test_forecasts_are_finite_and_sane_at_any_scale",),
    ),
    "G14": Check(
        "what is not finite never serves",
        (
            "unit/learning/test_gate.py::test_what_is_not_finite_never_serves",
            "unit/learning/test_training.py::"
            "test_a_forecast_that_is_not_finite_has_a_reason_and_spoils_no_other",
        ),
    ),
    "G15": Check(
        "NaN in the input spoils neither fit nor drift",
        (
            "unit/learning/test_training.py::test_missing_and_infinite_samples_are_gaps",
            "unit/learning/test_scores.py::"
            "test_one_nan_residual_does_not_disable_the_rolling_error",
            "unit/learning/test_drift.py::test_a_nan_residual_leaves_the_sums_as_they_are",
            "e2e/test_main_job.py::test_gaps_and_nan_in_the_input_spoil_nothing",
        ),
    ),
    "G16": Check(
        "counters become rates, resets handled",
        (
            "unit/ingest/test_counters.py::test_the_kernel_equals_its_twin",
            "e2e/test_main_job.py::test_the_rate_of_a_counter_overlays_its_actual_within_5_percent",
            "e2e/test_main_job.py::"
            "test_the_forecast_of_a_counter_with_resets_is_a_rate_and_never_negative",
        ),
    ),
    "G17": Check(
        "N matching series yield N forecasts",
        ("e2e/test_main_job.py::test_a_watch_that_matches_16_series_yields_16_forecasts",),
    ),
    "G18": Check(
        "two watches on one metric with different labels both show",
        (
            "e2e/test_main_job.py::test_two_watches_on_one_metric_both_publish",
            "unit/publish/test_exposition.py::test_two_watches_on_one_metric_share_one_header",
        ),
    ),
    "G19": Check(
        "two horizons or models on one series live side by side",
        (
            "unit/config/test_schema.py::test_two_watches_of_one_identity_are_told_apart",
            "unit/learning/test_store.py::test_two_watches_on_one_series_number_their_own_versions",
            "unit/publish/test_ownership.py::"
            "test_the_first_watch_owns_and_a_later_one_predicts_at_another_horizon",
        ),
    ),
    "G20": Check(
        "bounds hold the share that was asked for",
        (
            "unit/loop/test_life.py::test_the_band_holds_the_share_that_the_settings_ask_for",
            "unit/models/test_intervals.py::test_any_level_is_held",
        ),
    ),
    "G21": Check(
        "series of a superseded version disappear",
        (
            "unit/publish/test_publisher.py::"
            "test_what_named_a_version_ends_with_a_marker_when_another_one_serves",
        ),
    ),
    "G22": Check(
        "a forecast is stamped as documented",
        (
            "e2e/test_main_job.py::test_what_was_predicted_five_steps_before_lies_on_a_line",
            "e2e/test_main_job.py::test_a_minutes_predictions_are_stamped_a_minute_apart",
        ),
    ),
    "G23": Check(
        "a residual is of forecast and actual of one instant",
        (
            "unit/learning/test_residuals.py::"
            "test_every_lead_is_judged_by_the_forecast_made_for_that_very_instant",
            "e2e/test_main_job.py::test_an_actual_scraped_late_is_judged_with_its_true_value",
        ),
    ),
    "G24": Check(
        "drift needs a number of residuals and keeps a cooldown",
        (
            "unit/learning/test_scores.py::test_a_score_is_nan_until_enough_instants_were_judged",
            "unit/learning/test_drift.py::test_a_fit_is_due_once_a_cooldown",
            "unit/learning/test_drift_in_time.py::"
            "test_on_stationary_noise_there_is_less_than_one_false_full_fit_in_thirty_days",
        ),
    ),
    "G25": Check(
        "thresholds hold in any unit",
        (
            "unit/learning/test_drift.py::test_a_multiple_is_of_the_versions_own_error",
            "unit/learning/test_drift.py::test_a_percentage_is_of_the_series_mean_level",
        ),
    ),
    "G26": Check(
        "only a promotion clears a drift",
        (
            "unit/learning/test_drift.py::"
            "test_a_drift_is_cleared_by_a_promotion_and_by_nothing_else",
        ),
    ),
    "G27": Check(
        "a version's number is never given again",
        (
            "unit/learning/test_store.py::test_a_number_is_never_given_again",
            "unit/learning/test_store_damage.py::"
            "test_numbers_are_not_given_again_even_when_the_file_that_counts_them_is_lost",
        ),
    ),
    "G28": Check(
        "what serves is never pruned",
        (
            "unit/learning/test_store.py::"
            "test_old_versions_are_pruned_but_never_what_serves_or_its_predecessor",
        ),
    ),
    "G29": Check(
        "a rollback that fails changes nothing",
        (
            "unit/learning/test_store.py::"
            "test_a_rollback_that_cannot_be_done_changes_nothing_and_says_what_there_is",
            "unit/loop/test_life.py::test_a_rollback_that_cannot_be_served_changes_nothing",
            "unit/loop/test_life.py::test_a_rollback_while_the_source_is_down_changes_nothing",
        ),
    ),
    "G30": Check(
        "a user's own model can be rolled back",
        ("unit/loop/test_life.py::test_a_users_own_model_is_versioned_restored_and_rolled_back",),
    ),
    "G31": Check(
        "a fit never changes what serves",
        (
            "unit/loop/test_life.py::test_a_finetune_changes_nothing_of_what_serves_meanwhile",
            "contract/test_models.py::test_fitting_and_updating_leave_their_arguments_as_they_were",
            "unit/models/test_custom.py::test_a_finetune_learns_on_a_copy",
        ),
    ),
    "G32": Check(
        "a restart forecasts within one cycle",
        (
            "unit/loop/test_restarts.py::test_a_restart_fits_nothing_that_is_fresh",
            "e2e/test_main_job.py::test_after_kill_9_expected_has_no_hole",
        ),
    ),
    "G33": Check(
        "another model, lookback or horizon is learned, not failed on",
        (
            "unit/loop/test_life.py::test_other_settings_fit_anew_and_say_so",
            "unit/loop/test_life.py::test_a_reload_of_the_same_settings_touches_nothing",
            "unit/models/test_registry.py::"
            "test_a_model_that_looks_back_has_another_recipe_with_another_lookback",
        ),
    ),
    "G34": Check(
        "no damage to the store prevents a start",
        (
            "unit/learning/test_store_damage.py::"
            "test_a_file_cut_short_anywhere_never_prevents_a_start",
        ),
    ),
    "G35": Check(
        "the store does not depend on the working directory",
        ("unit/learning/test_store.py::test_a_change_of_the_working_directory_changes_nothing",),
    ),
    "G36": Check(
        "loading what was stored runs no code",
        (
            "test_house.py::test_nothing_is_loaded_by_a_format_that_can_run_code",
            "unit/learning/test_store_damage.py::"
            "test_objects_are_not_loaded_even_with_the_right_checksum",
        ),
    ),
    "G37": Check(
        "any label value is safe",
        (
            "e2e/test_main_job.py::test_hostile_label_values_are_safe_everywhere",
            "unit/learning/test_store.py::test_any_label_value_is_safe",
            "unit/config/test_matchers.py::test_a_printed_selector_is_read_back",
            "unit/publish/test_exposition.py::test_any_label_value_is_read_back_as_it_was",
        ),
    ),
    "G38": Check(
        "a server that is down at the start is waited for",
        (
            "e2e/test_outages.py::"
            "test_it_waits_for_prometheus_recovers_by_itself_and_withdraws_what_grew_old",
        ),
    ),
    "G39": Check(
        "what has grown old is withdrawn",
        (
            "e2e/test_outages.py::"
            "test_it_waits_for_prometheus_recovers_by_itself_and_withdraws_what_grew_old",
        ),
    ),
    "G40": Check(
        "a watch that hangs stops no other",
        (
            "unit/loop/test_life.py::test_a_watch_whose_source_hangs_delays_no_other",
            "integration/test_remote_reader.py::"
            "test_small_reads_that_wait_together_share_requests_and_not_their_troubles",
        ),
    ),
    "G41": Check(
        "Grafana's buttons work",
        (
            "integration/test_query_grafana.py::test_save_and_test_gets_what_it_looks_for",
            "integration/test_query_grafana.py::test_names_and_values_have_ours_among_them",
        ),
    ),
    "G42": Check(
        "every page is itself, and an unknown one a 404",
        (
            "integration/test_app.py::test_readiness_says_why_not_and_health_does_not_depend_on_it",
            "integration/test_app.py::test_an_unknown_page_is_a_404_that_names_the_known_ones",
        ),
    ),
    "G43": Check(
        "stop() frees the port within 5 s, and start() works again",
        (
            "integration/test_python_api.py::"
            "test_stop_frees_the_port_within_seconds_and_start_works_again",
        ),
    ),
    "G44": Check(
        "SIGTERM ends it in order",
        ("e2e/test_main_job.py::test_sigterm_ends_it_with_status_0_within_5_seconds",),
    ),
    "G45": Check(
        "500 watches cost few threads and stop in seconds",
        (
            "e2e/test_many_watches.py::"
            "test_500_watches_need_few_threads_answer_while_they_train_and_stop_in_seconds",
        ),
    ),
    "G46": Check(
        "a long past is read in pieces",
        (
            "unit/remote/test_slices.py::test_slices_cover_the_range_exactly_whatever_is_learned",
            "integration/test_remote_reader.py::"
            "test_a_slice_that_holds_too_much_is_read_in_shorter_ones",
            "integration/test_remote_reader.py::test_an_expression_is_read_at_its_instants",
        ),
    ),
    "G47": Check(
        "no percentage of zeros",
        (
            "unit/learning/test_training.py::test_a_percentage_of_zeros_is_not_reported",
            "unit/learning/test_scores.py::test_relative_errors_stay_finite_on_zeros",
        ),
    ),
    "G48": Check(
        "an expression is watched under the name it is given",
        (
            "e2e/test_other_sources.py::"
            "test_an_expression_is_forecast_under_its_name_with_the_labels_of_its_result",
        ),
    ),
    "G49": Check(
        "it tells what it does: commands, status, metrics",
        (
            "unit/test_readme.py::test_readme_lists_every_self_metric_with_its_labels_and_meaning",
            "e2e/test_learning_loop.py::test_drift_is_learned_recorded_and_can_be_rolled_back",
            "test_house.py::test_the_commands_can_be_run",
        ),
    ),
    "G50": Check(
        "it listens on loopback unless told otherwise",
        ("unit/config/test_schema.py::test_the_defaults_of_sentinel_mlops_hold",),
    ),
}


@cache
def names_in(module: str) -> frozenset[str]:
    """The test functions of a module, collected from its text."""
    tree = ast.parse((TESTS / module).read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(one.name for one in tree.body if isinstance(one, functions))


def test_all_fifty_are_there() -> None:
    assert list(CHECKS) == [f"G{number:02}" for number in range(1, 51)]


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_a_check_is_shown_by_tests_that_exist(check: Check) -> None:
    assert check.shown_by
    for test in check.shown_by:
        module, _, name = test.partition("::")
        assert name in names_in(module), f"{test} is no more: which test shows that {check.must}?"
