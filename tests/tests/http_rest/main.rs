//! The HTTP/REST chapter.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::ExitCode;

use tests::{Pair, run, test};

mod errors;
mod exercises;
mod headers;
mod hostile;
mod idempotency;
mod live;
mod pair;
mod property;
mod raw;
mod readings;
mod retries;
mod shapes;
mod stations;

const PAIR: Pair = tests::pair!("http_rest");

fn main() -> ExitCode {
    use {
        errors::*, exercises::*, headers::*, hostile::*, idempotency::*, live::*, pair::*, property::*,
        readings::*, retries::*, shapes::*, stations::*,
    };
    run([
        test!(the_pair_prints_what_the_readme_shows),
        test!(the_minimal_example_prints_what_the_readme_shows),
        test!(every_limit_is_an_option_of_the_server),
        test!(a_client_without_a_server_says_how_to_start_one),
        test!(a_server_without_its_port_says_how_to_pick_another),
        test!(an_address_of_another_protocol_is_refused_by_the_client),
        test!(the_subcommands_do_one_thing_each),
        test!(text_from_outside_cannot_control_the_terminal),
        test!(a_client_whose_reader_leaves_ends_silently),
        test!(a_second_signal_ends_the_server_at_once),
        test!(a_watch_says_what_it_missed),
        test!(a_station_is_created_read_replaced_patched_and_deleted),
        test!(a_conditional_read_saves_the_body),
        test!(a_change_is_checked_in_the_order_of_the_statuses),
        test!(a_merge_patch_changes_only_what_it_names),
        test!(stations_are_listed_page_by_page),
        test!(an_id_cannot_change_the_path),
        test!(two_writers_lose_no_update).alone(),
        test!(a_station_too_many_is_refused_whole),
        test!(every_invalid_reading_is_named_up_to_a_bound),
        test!(a_batch_is_all_or_nothing),
        test!(readings_are_filtered_and_paged_without_gap_or_repeat),
        test!(a_page_from_before_a_restart_is_gone),
        test!(the_newest_readings_push_out_the_oldest),
        test!(a_repeated_key_gets_the_first_answer_and_no_second_effect),
        test!(a_key_with_another_body_is_refused),
        test!(a_key_still_running_is_a_conflict_until_it_ends),
        test!(a_failed_request_leaves_its_key_free),
        test!(a_client_that_leaves_sets_its_key_free),
        test!(keys_are_bounded_in_number_and_time),
        test!(a_live_stream_resumes_where_it_broke_off),
        test!(a_live_stream_tells_of_a_gap),
        test!(a_filtered_stream_keeps_up_with_the_others),
        test!(a_quiet_live_stream_has_a_heartbeat),
        test!(a_slow_reader_does_not_slow_the_recorder),
        test!(a_watch_survives_a_restart_and_reports_it),
        test!(conditions_count_in_the_order_of_rfc_9110),
        test!(a_malformed_condition_is_refused),
        test!(a_resource_without_a_tag_matches_only_the_star),
        test!(a_body_with_a_content_coding_is_refused),
        test!(a_media_type_may_have_parameters_and_capitals),
        test!(a_single_value_header_sent_twice_is_refused),
        test!(a_batch_of_another_shape_names_its_field),
        test!(a_station_of_another_shape_names_its_field),
        test!(a_value_out_of_its_range_is_refused),
        test!(a_name_that_people_could_misread_is_refused),
        test!(an_integer_may_have_a_decimal_point_or_an_exponent),
        test!(an_unknown_parameter_is_refused_everywhere),
        test!(each_error_is_a_problem_of_its_status),
        test!(what_the_parser_refuses_has_no_body),
        test!(a_request_has_one_plain_host),
        test!(a_slow_body_is_told_of_its_timeout),
        test!(requests_and_connections_over_the_cap_are_told_when_to_return),
        test!(a_request_id_is_kept_or_given),
        test!(the_description_matches_the_routes),
        test!(oversized_uploads_all_see_413).alone(),
        test!(a_thousand_slow_lorises_stop_nobody).alone(),
        test!(a_client_that_half_closes_gets_its_responses),
        test!(a_refused_client_cannot_hold_its_connection),
        test!(a_body_that_is_refused_is_not_read_first),
        test!(a_silent_connection_is_closed),
        test!(a_client_that_does_not_read_is_cut_off),
        test!(sigterm_answers_the_hundred_requests_in_flight).alone(),
        test!(a_request_that_never_ends_does_not_hold_up_the_stop),
        test!(generated_requests_get_proper_answers).alone(),
        test!(the_client_retries_what_is_safe),
        test!(the_client_does_not_repeat_what_may_do_harm),
        test!(a_failed_call_says_whether_it_may_have_been_executed),
        test!(the_client_honors_retry_after),
        test!(the_client_does_not_wait_for_longer_than_a_call_may_take),
        test!(the_client_reads_every_form_of_problem),
        test!(the_client_follows_no_redirect),
        test!(the_client_reads_an_event_stream_of_any_spelling),
        test!(the_client_bounds_the_size_of_a_response_and_an_event),
        test!(the_client_gives_up_on_a_server_that_says_nothing),
        test!(a_watch_ends_with_an_error_that_would_come_again),
        test!(exercise_readings_are_sent_as_csv_on_request).exercise(),
        test!(exercise_a_put_creates_what_nobody_created_before).exercise(),
    ])
}
