//! The TCP chapter.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::ExitCode;

use tests::{Pair, run, test};

mod base;
mod bounds;
mod client;
mod connections;
mod document;
mod exchange;
mod exercises;
mod framing;
mod once;
mod pair;
mod program;
mod proxy;
mod slow;
mod stop;
mod support;

const PAIR: Pair = tests::pair!("tcp_socket");

fn main() -> ExitCode {
    if let Ok(text) = std::env::var(program::LOG_THIS) {
        return program::log_this(&text);
    }
    use {
        base::*, bounds::*, client::*, connections::*, document::*, exchange::*, exercises::*, framing::*,
        once::*, pair::*, program::*, slow::*, stop::*,
    };
    run([
        test!(text_from_outside_cannot_control_a_terminal),
        test!(names_follow_the_unicode_standards),
        test!(names_that_look_alike_have_the_same_key),
        test!(an_object_is_not_read_from_an_array),
        test!(pauses_grow_to_their_maximum_and_start_again_when_reset),
        test!(text_from_outside_cannot_forge_a_log_line),
        test!(a_second_signal_ends_a_server_at_once_while_the_first_still_drains),
        test!(every_command_ends_silently_when_nobody_reads_its_output),
        test!(a_program_whose_errors_nobody_reads_does_not_panic),
        test!(a_watch_reconnects_after_its_connection_was_lost_and_says_what_was_missed),
        test!(a_watch_outlives_its_server),
        test!(an_address_that_cannot_be_reached_is_not_blamed_on_a_server_that_is_missing),
        test!(the_pair_prints_what_the_readme_shows),
        test!(the_minimal_example_prints_what_the_readme_shows),
        test!(the_classic_mistake_fails_as_the_readme_shows),
        test!(the_subcommands_do_one_thing_each),
        test!(a_watch_in_a_terminal_shows_what_another_records),
        test!(a_client_without_a_server_says_how_to_start_one),
        test!(a_server_without_its_port_says_how_to_pick_another),
        test!(an_address_of_another_protocol_is_refused_by_the_client),
        test!(the_examples_of_the_document_are_what_the_crate_speaks),
        test!(the_tables_of_the_document_hold_the_numbers_of_the_crate),
        test!(a_client_in_python_written_from_the_document_works).needs(python()),
        test!(frames_survive_any_split_and_merge_of_the_stream),
        test!(a_stream_byte_by_byte_gives_the_same_frames),
        test!(a_frame_that_lacks_a_byte_is_not_there_yet),
        test!(a_flipped_bit_never_passes),
        test!(no_bytes_make_the_decoder_panic_or_grow_beyond_its_limit),
        test!(a_header_alone_takes_no_memory_for_its_payload),
        test!(batches_come_back_as_they_were),
        test!(updates_errors_and_handshakes_come_back_as_they_were),
        test!(the_window_knows_what_a_longer_memory_would_know),
        test!(the_checksum_is_the_one_of_the_document),
        test!(what_is_no_handshake_is_told_so_and_never_ignored),
        test!(the_highest_common_version_is_chosen),
        test!(any_split_and_any_merge_of_the_stream_is_understood),
        test!(a_bad_frame_ends_its_connection_with_the_reason_and_no_other),
        test!(a_bad_request_is_refused_and_the_connection_goes_on),
        test!(a_goodbye_that_is_more_than_its_header_is_refused),
        test!(a_refused_cancel_ends_its_watch_and_says_nothing_without_one),
        test!(the_id_of_an_open_watch_is_refused_before_anything_else_is_looked_at),
        test!(the_first_fault_of_a_batch_is_reported),
        test!(a_batch_is_recorded_whole_or_not_at_all),
        test!(a_watch_sees_what_others_record_until_it_is_cancelled),
        test!(a_goodbye_comes_after_all_answers_and_the_end_of_watches),
        test!(the_window_answers_again_and_refuses_what_it_forgot),
        test!(no_single_batch_id_shuts_a_client_out),
        test!(a_client_with_a_connection_is_never_forgotten_and_the_oldest_other_is),
        test!(everything_works_through_a_proxy_that_forwards_single_bytes),
        test!(a_batch_counts_once_when_the_connection_is_cut_after_its_commit),
        test!(a_batch_counts_once_when_the_connection_is_cut_before_it_arrives),
        test!(many_calls_in_flight_all_count_once_across_a_cut),
        test!(after_a_restart_the_client_says_that_the_outcome_is_unknown),
        test!(the_same_batch_at_once_on_many_connections_counts_once),
        test!(answers_are_matched_by_request_id_in_whatever_order_they_come),
        test!(a_call_without_an_answer_ends_and_says_what_that_means),
        test!(calls_that_were_given_up_keep_their_place_so_that_nothing_grows),
        test!(a_goodbye_is_a_promise_that_the_rest_was_not_executed),
        test!(a_client_notices_a_server_that_has_fallen_silent),
        test!(a_slow_download_is_a_sign_of_life_but_not_at_any_rate),
        test!(a_client_waits_while_a_large_frame_of_its_own_is_on_its_way),
        test!(what_a_client_must_not_act_on_it_ignores),
        test!(a_client_stops_reconnecting_only_when_it_cannot_help),
        test!(addresses_are_understood_in_every_common_form),
        test!(text_of_a_server_cannot_control_a_terminal),
        test!(a_refused_client_is_told_why),
        test!(a_server_that_has_forgotten_the_client_does_not_get_the_batch_again),
        test!(a_dropped_watch_is_cancelled_and_a_closed_client_says_goodbye),
        test!(a_slow_reader_of_a_client_watch_is_told_how_many_it_skipped),
        test!(a_silent_connection_is_closed_and_heartbeats_keep_one_open),
        test!(a_large_frame_on_a_slow_link_arrives_though_it_takes_longer_than_the_idle_timeout),
        test!(a_frame_that_dribbles_is_refused_whatever_the_idle_timeout),
        test!(a_client_that_reads_slowly_is_not_cut_off),
        test!(who_does_not_read_is_cut_off_and_cannot_fill_the_memory),
        test!(a_watch_reads_on_from_its_place_and_leaves_nothing_behind),
        test!(a_watcher_that_stopped_reading_slows_nobody_and_is_told_what_it_missed).alone(),
        test!(over_the_cap_a_connection_is_refused_in_the_protocols_own_way),
        test!(a_storm_above_the_cap_is_told_so_and_leaves_those_inside_alone).alone(),
        test!(connections_leave_no_task_behind),
        test!(ten_thousand_connections_leave_no_descriptor_and_no_memory_behind).alone(),
        test!(a_server_lingers_for_a_time_and_for_an_amount_of_input),
        test!(only_so_many_refused_connections_are_lingered_over),
        test!(a_connection_that_cannot_be_drained_is_cut),
        test!(a_client_that_did_not_read_for_a_while_is_not_taken_for_silent),
        test!(watches_with_much_to_send_take_turns_in_frames_of_bounded_size),
        test!(what_is_not_of_its_form_is_not_parsed),
        test!(what_a_client_can_see_to_be_wrong_is_not_sent),
        test!(a_welcome_that_a_client_cannot_live_with_is_refused),
        test!(a_client_drops_a_connection_with_a_frame_that_it_cannot_trust),
        test!(a_client_waits_only_so_long_for_a_server_that_says_nothing),
        test!(a_connection_that_brings_nothing_does_not_shorten_the_pauses),
        test!(a_batch_keeps_its_number_however_it_was_refused),
        test!(every_limit_is_an_option_of_the_server_with_its_name_and_default),
        test!(a_draining_server_answers_what_it_has_taken_up_and_says_goodbye),
        test!(a_restart_with_a_drain_loses_nothing_and_repeats_nothing),
        test!(a_killed_server_leaves_no_call_waiting),
        test!(exercise_a_station_is_asked_how_many_readings_it_has).exercise(),
        test!(exercise_a_history_of_any_length_comes_in_frames_of_bounded_size).exercise(),
    ])
}
