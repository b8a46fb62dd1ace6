//! The WebSocket chapter.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod browser;
mod chat;
mod client;
mod exercises;
mod live;
mod load;
mod local;
mod origins;
mod protocol;
mod slow;

use std::process::ExitCode;

use tests::{Pair, assert_same, expected_output, pair, run, run_program, test};
use websocket::Limits;

use browser::{
    a_page_whose_origin_is_refused_says_why_and_stops_trying,
    the_chart_offers_the_known_stations_and_the_raw_messages_are_shown,
    the_page_keeps_a_text_that_is_refused_and_says_why_beside_it,
    the_page_shows_invisible_characters_as_the_terminal_does,
    two_pages_and_a_terminal_chat_and_survive_a_restart,
};
use chat::*;
use client::*;
use exercises::*;
use live::*;
use load::*;
use origins::*;
use protocol::*;
use slow::*;

const PAIR: Pair = pair!("websocket");

async fn the_pair_prints_what_the_readme_shows() {
    let server = PAIR.serve().await;
    let client = PAIR.client(&server, &[]).await;
    assert_eq!(client.code, Some(0), "{}", client.stderr);
    let readme = "websocket/README.md";
    assert_same(&client.stdout, &expected_output(readme, "cargo run -p websocket --bin client"));
    let printed = server.stop().await;
    assert_same(&sorted(&printed), &sorted(&expected_output(readme, "cargo run -p websocket --bin server")));
}

async fn the_minimal_example_prints_what_the_readme_shows() {
    let printed = run_program(env!("CARGO_BIN_EXE_websocket-minimal"), &[]).await;
    let shown = expected_output("websocket/README.md", "cargo run -p websocket --example minimal");
    assert_same(&printed.stdout, &shown);
}

/// The fields of `Limits` are taken from its `Debug` output.
async fn every_limit_is_an_option_of_the_server() {
    let help = run_program(PAIR.server, &["--help"]).await.stdout;
    let limits = format!("{:?}", Limits::default());
    let fields =
        limits.split_once("{ ").unwrap().1.split(", ").map(|field| field.split_once(": ").unwrap().0);
    let mut count = 0;
    for field in fields {
        let option = format!("--{} <", field.replace('_', "-"));
        assert!(help.contains(&option), "{option} is not in {help}");
        count += 1;
    }
    assert!(count >= 12, "{limits}");
    for (option, value) in [
        ("--heartbeat", "0"),
        ("--dead-after", "1000000000000000000"),
        ("--drain-timeout", "-1"),
        ("--max-connections", "9999999999999999"),
        ("--max-message", "2MB"),
    ] {
        let refused = run_program(PAIR.server, &[option, value]).await;
        assert_eq!(refused.code, Some(2), "{option} {value}: {}", refused.stderr);
    }
}

/// The lines of a log without their times, sorted: connections that end at the
/// same time are logged in any order.
fn sorted(log: &str) -> String {
    let mut lines: Vec<&str> =
        log.lines().map(|line| line.split_once("Z  ").map_or(line, |(_at, rest)| rest)).collect();
    lines.sort_unstable();
    lines.join("\n")
}

async fn the_messages_of_the_readme_are_those_of_the_code() {
    let read = |path: &str| {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../websocket").join(path);
        std::fs::read_to_string(path).unwrap()
    };
    let rows = |text: &str| -> Vec<String> {
        let lines = text.lines().map(|line| line.strip_prefix("//! ").unwrap_or(line));
        lines
            .filter(|line| line.starts_with("| `/") || line.starts_with("| both"))
            .map(str::to_owned)
            .collect()
    };
    let (readme, code) = (rows(&read("README.md")), rows(&read("src/protocol/message.rs")));
    assert!(code.len() >= 14, "the tables were found"); // Exercises add to them.
    assert_eq!(readme, code);
}

async fn the_tour_can_be_taken_twice() {
    let server = PAIR.serve().await;
    for _ in 0..2 {
        let client = PAIR.client(&server, &[]).await;
        assert_eq!(client.code, Some(0), "{}{}", client.stdout, client.stderr);
    }
    server.stop().await;
}

async fn a_client_without_a_server_says_how_to_start_one() {
    PAIR.client_says_how_to_start_a_server("http", &[&[], &["live"], &["chat", "--name", "ana"]]).await;
}

async fn a_server_without_its_port_says_how_to_pick_another() {
    PAIR.server_says_how_to_pick_another_port().await;
}

async fn an_address_of_another_protocol_is_refused_by_the_client() {
    PAIR.client_refuses_another_protocol("http", &[&[], &["live"], &["chat", "--name", "ana"]]).await;
}

fn main() -> ExitCode {
    run([
        test!(the_pair_prints_what_the_readme_shows),
        test!(the_minimal_example_prints_what_the_readme_shows),
        test!(every_limit_is_an_option_of_the_server),
        test!(the_messages_of_the_readme_are_those_of_the_code),
        test!(the_tour_can_be_taken_twice),
        test!(a_client_without_a_server_says_how_to_start_one),
        test!(a_server_without_its_port_says_how_to_pick_another),
        test!(an_address_of_another_protocol_is_refused_by_the_client),
        test!(the_handshake_is_that_of_the_rfc),
        test!(a_frame_glued_to_the_handshake_is_not_lost),
        test!(a_bad_handshake_gets_its_status),
        test!(header_names_and_tokens_may_be_written_in_any_case),
        test!(of_the_subprotocols_only_ours_is_spoken),
        test!(pages_from_elsewhere_may_not_connect),
        test!(a_violation_of_the_protocol_gets_its_close_code),
        test!(the_close_frame_arrives_although_its_cause_is_still_being_sent),
        test!(frames_may_arrive_byte_by_byte_and_messages_in_fragments),
        test!(an_invalid_message_gets_a_reason_and_the_connection_lives),
        test!(the_server_pings_and_sends_heartbeats),
        test!(the_dead_are_closed_and_the_living_are_not),
        test!(a_handshake_that_does_not_come_ends_the_connection),
        test!(beyond_the_connection_cap_the_answer_is_503_before_the_upgrade),
        test!(on_shutdown_everybody_is_closed_with_1001),
        test!(shutdown_cuts_who_does_not_let_go),
        test!(who_reads_nothing_is_cut),
        test!(garbage_harms_nobody),
        test!(a_client_that_has_said_everything_gets_its_answer),
        test!(the_page_and_the_health_route_are_plain_http),
        test!(a_name_is_unique_in_its_room_and_presence_is_told),
        test!(names_rooms_and_texts_are_checked),
        test!(bounds_of_rooms_are_told),
        test!(a_newcomer_is_shown_the_last_hundred_messages),
        test!(a_message_that_is_sent_again_is_stored_once),
        test!(a_token_takes_over_and_brings_what_was_missed),
        test!(who_is_cut_off_keeps_the_name_for_a_while_and_then_has_left),
        test!(a_room_that_is_made_again_goes_on_counting),
        test!(beyond_the_buffer_there_is_a_gap_of_known_size),
        test!(a_batch_is_recorded_whole_or_not_at_all),
        test!(stations_are_bounded),
        test!(many_tasks_share_one_connection),
        test!(a_subscriber_sees_what_it_asked_for_and_nothing_else),
        test!(readings_carry_the_number_that_they_have_in_their_series),
        test!(a_slow_reader_is_told_how_many_it_missed_and_given_the_newest),
        test!(a_call_whose_connection_breaks_fails_and_the_next_connects_again),
        test!(a_server_that_falls_silent_is_given_up),
        test!(a_request_without_an_answer_times_out),
        test!(a_server_that_does_not_speak_websocket_is_recognized),
        test!(clients_come_back_to_a_server_that_was_killed_and_restarted),
        test!(a_subscription_that_was_cut_goes_on_and_shows_what_it_missed),
        test!(a_message_whose_answer_was_lost_is_sent_again_and_stored_once),
        test!(who_lost_the_name_meanwhile_is_told),
        test!(leaving_works_without_a_server_too),
        test!(who_was_away_for_long_is_shown_everything_as_well),
        test!(in_the_terminal_lines_are_messages_and_the_end_of_input_leaves),
        test!(the_live_client_shows_readings_until_it_is_interrupted),
        test!(the_terminal_client_shows_no_control_characters),
        test!(a_request_needs_one_valid_host),
        test!(origins_are_compared_by_their_parts),
        test!(an_allowed_origin_may_be_written_in_several_ways),
        test!(an_invalid_allow_origin_option_is_refused_at_startup),
        test!(a_foreign_page_is_told_the_reason_and_so_is_the_log),
        test!(a_message_may_arrive_slowly_while_its_bytes_keep_coming),
        test!(a_message_that_arrives_too_slowly_ends_the_connection),
        test!(control_frames_are_never_too_slow),
        test!(a_peer_that_reads_slowly_is_not_cut),
        test!(the_client_accepts_a_slow_answer_but_not_one_that_is_too_slow),
        test!(a_call_waits_longer_when_it_is_large),
        test!(a_request_of_another_shape_is_refused),
        test!(an_integer_may_have_a_decimal_point_or_an_exponent),
        test!(names_follow_the_standards_of_unicode),
        test!(names_that_look_alike_are_not_in_a_room_together),
        test!(a_client_that_claims_a_future_number_still_gets_the_next_event),
        test!(a_server_that_selects_what_was_not_offered_is_refused),
        test!(nothing_that_a_server_sends_reaches_the_terminal_raw),
        test!(live_in_the_terminal_reconnects_and_says_what_was_missed),
        test!(a_restarted_server_is_noticed_in_the_terminal),
        test!(live_ends_when_reconnecting_cannot_help),
        test!(a_reader_that_has_seen_enough_ends_the_program_silently),
        test!(a_second_ctrl_c_ends_the_programs_at_once),
        test!(beyond_the_refusals_connections_are_closed_without_a_word),
        test!(lingering_has_an_end),
        test!(only_invalid_messages_in_a_row_are_counted),
        test!(a_refusal_is_short_however_long_the_request_is),
        test!(a_room_holds_a_thousand_members_including_those_who_are_away),
        test!(a_handshake_without_an_answer_times_out),
        test!(abandoned_calls_make_room_for_others),
        test!(a_message_over_the_clients_limit_breaks_the_connection),
        test!(a_member_waits_for_a_place_and_sees_nothing_twice),
        test!(a_subscription_names_at_most_a_thousand_stations),
        test!(a_subscription_is_told_its_stations_and_the_number_of_their_readings),
        test!(requests_in_flight_are_bounded),
        test!(a_server_that_closes_at_once_is_asked_less_and_less_often),
        test!(a_reading_that_was_read_back_is_not_shown_twice),
        test!(a_subscriber_sees_only_what_is_recorded_after_it_subscribed),
        test!(a_member_that_comes_back_in_time_has_not_left),
        test!(a_connection_that_was_taken_over_says_nothing_more),
        test!(a_pong_right_after_a_message_is_harmless),
        test!(two_pages_and_a_terminal_chat_and_survive_a_restart).needs(browser::chromium()).alone(),
        test!(the_page_keeps_a_text_that_is_refused_and_says_why_beside_it)
            .needs(browser::chromium())
            .alone(),
        test!(the_page_shows_invisible_characters_as_the_terminal_does).needs(browser::chromium()).alone(),
        test!(the_chart_offers_the_known_stations_and_the_raw_messages_are_shown)
            .needs(browser::chromium())
            .alone(),
        test!(a_page_whose_origin_is_refused_says_why_and_stops_trying).needs(browser::chromium()).alone(),
        test!(all_see_one_order_and_nothing_is_lost_or_doubled).alone(),
        test!(five_thousand_idle_connections_take_little_memory).alone(),
        test!(who_stops_reading_costs_no_memory_and_slows_nobody).alone(),
        test!(a_reader_that_has_caught_up_gives_its_memory_back).alone(),
        test!(exercise_a_subscriber_may_be_given_the_newest_first).exercise(),
        test!(exercise_a_new_name_is_told_in_order_and_keeps_the_place).exercise(),
    ])
}
