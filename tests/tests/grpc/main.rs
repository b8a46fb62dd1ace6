//! The gRPC chapter.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::ExitCode;

use tests::{run, test};

mod calls;
mod exercises;
mod faults;
mod hostile;
mod limits;
mod options;
mod pair;
mod printable;
mod python;
mod reconnects;
mod requests;
mod retries;
mod services;
mod support;

use calls::*;
use exercises::*;
use faults::*;
use hostile::*;
use limits::*;
use options::*;
use pair::*;
use printable::*;
use python::*;
use reconnects::*;
use requests::*;
use retries::*;
use services::*;

fn main() -> ExitCode {
    run([
        test!(the_minimal_example_prints_what_the_readme_shows),
        test!(the_pair_prints_what_the_readme_shows),
        test!(a_client_without_a_server_says_how_to_start_one),
        test!(a_server_without_its_port_says_how_to_pick_another),
        test!(an_address_of_another_protocol_is_refused_by_the_client),
        test!(the_client_uploads_a_file),
        test!(a_unary_call_on_the_wire),
        test!(the_bytes_in_the_readme_are_real),
        test!(an_invalid_batch_names_its_fields_and_keeps_nothing),
        test!(every_impossible_value_names_its_field),
        test!(a_full_store_refuses_new_stations_only),
        test!(watch_resumes_where_it_broke_off),
        test!(watch_tells_when_the_place_is_no_longer_kept),
        test!(upload_counts_what_it_refuses),
        test!(monitor_interleaves_alerts_and_acknowledgements),
        test!(monitor_refuses_by_message_and_goes_on),
        test!(a_deadline_ends_every_kind_of_call),
        test!(a_deadline_ends_a_stream_in_full_flow),
        test!(compression_is_opt_in_and_bounded),
        test!(a_message_of_another_shape_is_no_crash),
        test!(a_token_is_asked_for),
        test!(health_is_told_for_each_service_and_turns_before_the_end),
        test!(reflection_describes_the_service),
        test!(reflection_reports_errors_on_the_open_stream),
        test!(what_is_no_call_is_told_so),
        test!(only_a_post_request_is_a_call),
        test!(other_content_types_are_refused),
        test!(the_authorization_header_is_parsed_as_the_rfcs_say),
        test!(metadata_over_the_limit_is_resource_exhausted),
        test!(response_headers_stay_within_what_clients_accept),
        test!(a_status_says_how_many_violations_it_leaves_out),
        test!(field_violations_travel_in_the_trailers),
        test!(the_python_client_makes_all_kinds_of_call).needs(python_client()),
        test!(a_generic_client_needs_no_proto).needs(python_client()),
        test!(a_client_that_vanishes_ends_the_handlers_work),
        test!(a_client_process_that_is_killed_is_noticed),
        test!(a_slow_reader_is_told_and_disturbs_nobody).alone(),
        test!(an_open_window_cannot_fill_the_servers_memory).alone(),
        test!(a_deadline_ends_a_stream_that_nobody_reads),
        test!(a_thousand_streams_share_one_connection).alone(),
        test!(an_oversized_message_is_resource_exhausted),
        test!(sigterm_ends_streams_and_lets_calls_finish),
        test!(what_does_not_finish_is_unavailable_when_the_drain_time_is_over),
        test!(calls_and_streams_are_capped),
        test!(connections_are_capped),
        test!(refusals_are_capped),
        test!(a_peer_that_keeps_sending_after_the_end_is_cut_off),
        test!(a_peer_that_does_not_answer_pings_is_dropped),
        test!(idle_connections_and_uploads_are_ended),
        test!(every_limit_is_an_option_of_the_server),
        test!(a_limit_that_makes_no_sense_is_refused_at_the_start),
        test!(back_pressure_reaches_the_sender),
        test!(an_upload_takes_readings_as_fast_as_they_are_read),
        test!(a_call_is_tried_again_where_that_is_safe),
        test!(a_call_that_may_have_had_effect_is_not_tried_again),
        test!(an_error_says_whether_the_call_may_have_been_executed),
        test!(a_deadline_passes_also_where_nobody_answers),
        test!(a_client_gives_up_connecting_in_time),
        test!(a_watch_over_a_restart_is_told_of_it),
        test!(a_watch_goes_on_after_its_connection_broke),
        test!(a_client_gives_up_an_attempt_to_reconnect_in_time),
        test!(watch_says_what_was_missed),
        test!(a_watch_ends_when_reconnecting_cannot_help),
        test!(monitor_adds_its_thresholds_again_after_reconnecting),
        test!(only_a_refused_connection_is_blamed_on_a_server_that_is_missing),
        test!(every_command_ends_silently_when_nobody_reads_its_output),
        test!(a_second_signal_ends_the_server_at_once),
        test!(the_client_prints_nothing_that_controls_a_terminal),
        test!(the_server_logs_nothing_that_controls_a_terminal),
        test!(silence_and_half_a_preface_are_closed),
        test!(garbage_is_closed),
        test!(a_goaway_is_not_lost_in_unread_input),
        test!(half_a_frame_is_closed),
        test!(oversized_header_lists_are_refused),
        test!(rapid_reset_is_closed).alone(),
        test!(floods_do_not_grow_the_server).alone(),
        test!(exercise_latest_answers_with_the_newest_of_each_metric).exercise(),
        test!(exercise_a_watch_may_ask_for_some_metrics_only).exercise(),
    ])
}
