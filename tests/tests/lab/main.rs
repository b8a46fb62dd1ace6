//! The lab.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::ExitCode;

use tests::{run, test};

mod bytes;
mod output;
mod program;
mod statistics;
mod whole;

fn main() -> ExitCode {
    use {bytes::*, output::*, program::*, statistics::*, whole::*};

    // The lab starts its servers as this very program.
    if let Some(protocol) = lab::role() {
        lab::runtime().unwrap().block_on(lab::serve(&protocol)).unwrap();
        return ExitCode::SUCCESS;
    }
    run([
        test!(the_spread_of_known_values),
        test!(percentiles_of_known_values),
        test!(the_stall_shows_at_a_fixed_rate_only).alone(),
        test!(a_server_that_is_too_slow_is_reported_as_saturated).alone(),
        test!(as_many_requests_as_asked_are_in_flight),
        test!(errors_are_counted_and_kept_out_of_the_percentiles),
        test!(too_many_errors_end_a_measurement_early),
        test!(the_proxy_counts_what_it_forwards),
        test!(an_echo_is_all_payload),
        test!(a_tcp_request_is_what_its_layout_says),
        test!(a_websocket_request_is_what_its_layout_says),
        test!(a_run_measures_every_protocol).alone(),
        test!(a_run_measures_what_goes_through_brokers).alone().needs(message_queue::brokers::available()),
        test!(without_a_broker_the_others_run),
        test!(a_run_that_is_stopped_shows_what_it_has_measured),
        test!(a_server_ends_with_its_owner),
        test!(tables_fit_the_terminal),
        test!(texts_are_escaped_in_the_report),
        test!(times_are_shown_in_utc),
        test!(every_field_of_the_results_is_documented),
        test!(the_document_asks_for_each_prediction),
        test!(the_predictions_are_decided_by_the_figures),
        test!(costs_are_shown_in_multiples_of_the_echo),
        test!(the_documents_hold_the_kept_results),
        test!(a_debug_build_is_refused_with_the_right_command),
        test!(an_unknown_protocol_gets_the_list_of_known_ones),
    ])
}
