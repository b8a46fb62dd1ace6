//! The message-queue chapter, against real brokers of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::ExitCode;

use message_queue::brokers::available;
use tests::{Pair, Test, run, test};

mod brokers;
mod ends;
mod errors;
mod exercises;
mod fakes;
mod faults;
mod limits;
mod pair;
mod publish_subscribe;
mod python;
mod reconnect;
mod request_reply;
mod support;
mod work_queue;
mod workers;

const PAIR: Pair = tests::pair!("message_queue");

fn main() -> ExitCode {
    use {
        brokers::*, ends::*, errors::*, exercises::*, faults::*, limits::*, pair::*, publish_subscribe::*,
        python::*, reconnect::*, request_reply::*, work_queue::*, workers::*,
    };
    let brokers = available();
    let with_brokers = |test: Test| test.needs(brokers.clone());
    let plain = [
        test!(a_program_without_a_broker_says_how_to_start_one),
        test!(a_day_has_the_summary_that_was_computed_by_hand),
        test!(a_job_is_done_once_however_many_do_it),
        test!(what_is_no_job_or_request_is_refused),
        test!(a_request_of_another_shape_is_refused),
        test!(options_out_of_range_are_refused),
        test!(a_broker_that_does_not_answer_is_given_up),
        test!(one_station_keeps_only_the_newest_readings),
        test!(errors_are_told_apart),
        test!(an_error_says_whether_the_request_may_have_been_executed),
        test!(a_producer_tries_again_with_growing_pauses_until_redis_recovers),
        test!(a_lasting_error_of_redis_ends_a_producer),
        test!(a_result_that_a_power_cut_has_damaged_is_written_again),
        test!(an_attempt_waits_for_the_lock),
        test!(a_job_of_another_shape_is_refused_and_the_field_is_named),
    ];
    let with_brokers = [
        test!(the_programs_print_what_the_readme_shows),
        test!(the_minimal_examples_print_what_the_readme_shows),
        test!(the_tour_is_the_same_on_redis),
        test!(a_client_without_a_server_says_how_to_start_one),
        test!(three_workers_share_the_jobs),
        test!(a_poison_job_ends_with_the_dead_letters_and_stops_nothing),
        test!(a_job_that_kills_its_workers_ends_with_the_dead_letters),
        test!(a_full_queue_tells_the_producer_and_memory_stays_bounded),
        test!(ctrl_c_leaves_the_rest_queued),
        test!(another_declaration_is_explained),
        test!(a_stuck_worker_holds_only_its_prefetch),
        test!(a_long_delay_holds_up_no_short_one),
        test!(a_worker_that_cannot_write_takes_no_job),
        test!(a_fault_of_the_machine_in_the_middle_of_the_work_blames_no_job),
        test!(nothing_is_acknowledged_before_its_result_is_on_the_disk),
        test!(messages_with_strange_properties_end_with_the_dead_letters),
        test!(no_job_waits_long_behind_slow_work).alone(),
        test!(jobs_do_not_wait_behind_a_long_one),
        test!(a_finished_job_does_not_wait_for_the_next_one),
        test!(an_acknowledgement_is_sent_once),
        test!(jobs_go_back_into_a_full_queue_too),
        test!(a_failed_job_stays_when_there_are_too_many_dead_letters),
        test!(a_worker_that_leaves_forgets_no_job_and_has_a_name_of_its_own),
        test!(giving_a_job_back_does_not_count_as_a_try),
        test!(consumers_that_were_killed_are_removed_after_a_day),
        test!(a_worker_without_a_permission_ends_with_one_line),
        test!(a_second_ctrl_c_ends_a_worker_at_once),
        test!(patterns_deliver_exactly_what_matches),
        test!(redis_forgets_what_nobody_listens_to).alone(),
        test!(a_subscriber_that_is_too_slow_is_told_what_it_missed),
        test!(each_reply_finds_its_call),
        test!(a_malformed_reading_is_not_published),
        test!(no_server_is_an_immediate_error),
        test!(no_request_runs_after_its_caller_gave_up),
        test!(a_request_that_was_interrupted_does_not_run_twice),
        test!(a_request_runs_on_every_redis_server),
        test!(servers_survive_malformed_requests),
        test!(everything_connects_again_after_the_operator_closed_it).alone(),
        test!(a_deleted_queue_and_a_channel_error_are_repaired),
        test!(a_blocked_producer_is_told_and_goes_on).alone(),
        test!(a_silent_broker_is_noticed),
        test!(a_closed_stdout_ends_every_command_silently),
        test!(a_subscriber_survives_its_broker).alone(),
        test!(every_queue_of_rabbitmq_is_bounded),
        test!(a_slow_subscribers_queue_is_bounded),
        test!(a_publishers_window_is_bounded),
        test!(an_unroutable_message_is_an_error),
        test!(calls_in_flight_are_bounded),
        test!(a_redis_server_drops_requests_beyond_its_bound),
        test!(a_silent_broker_holds_up_nobody),
        test!(a_broker_that_is_starting_is_waited_for),
        test!(a_missing_permission_ends_every_program),
        test!(a_permission_taken_away_ends_the_programs_that_need_it),
        test!(an_unusable_broker_is_explained),
        test!(brokers_that_are_too_old_are_reported),
        test!(text_from_outside_is_printable),
        test!(brokers_end_with_their_owner).alone(),
        test!(a_taken_port_is_said),
        test!(rabbitmq_loses_no_confirmed_job).alone(),
        test!(redis_streams_lose_no_confirmed_job).alone(),
        test!(exercise_a_named_subscription_outlives_its_subscriber).exercise(),
        test!(exercise_redis_servers_share_the_requests).exercise(),
    ]
    .map(with_brokers);
    let with_python =
        [test!(a_python_producer_feeds_a_rust_consumer), test!(a_rust_producer_feeds_a_python_consumer)]
            .map(|test| test.needs(brokers.clone()).needs(virtual_environment()));
    run(plain.into_iter().chain(with_brokers).chain(with_python))
}
