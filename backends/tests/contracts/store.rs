//! What every store promises. Each promise runs over both backends; what only PostgreSQL can do is in `postgres`.
//!
//! | file | promises about |
//! |---|---|
//! | `course` | an event's way from delivery to its end |
//! | `fences` | ownership: who may change an event, and what a repeated call does |
//! | `waiting` | the waiting room, and taking over a bot |
//! | `priority` | what comes first in the waiting room |
//! | `volume` | very many waiting rows |
//! | `dead` | dead letters, replay, retention |
//! | `replay` | replaying with care |
//! | `crowd` | many workers at once |
//! | `tenants` | stopped tenants, counted calls |
//! | `schema` | migrations |
//! | `postgres` | a database that is away |
//! | `failover` | a database that another server takes over, or that nobody may write |
//! | `pooler` | a database behind PgBouncer |
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed step is a failed test"
)]

mod course;
mod crowd;
mod dead;
mod failover;
mod fences;
mod pooler;
mod postgres;
mod priority;
mod replay;
mod schema;
mod tenants;
mod volume;
mod waiting;
mod world;

macro_rules! promises {
    ($($file:ident: $($promise:ident),* $(,)?;)*) => {
        mod over_sqlite {
            $($(#[tokio::test(flavor = "multi_thread")] async fn $promise() {
                super::$file::$promise(super::world::World::sqlite().await).await;
            })*)*
        }
        mod over_postgres {
            $($(#[tokio::test(flavor = "multi_thread")] async fn $promise() {
                super::$file::$promise(super::world::World::postgres().await).await;
            })*)*
        }
    };
}

promises!(
    course:
        an_event_goes_from_delivery_to_done,
        every_field_of_the_first_copy_comes_back,
        a_plan_survives_its_worker,
        an_event_without_a_plan_may_finish,
        positions_follow_the_order_of_delivery_across_batches,
        a_second_copy_in_one_batch_is_settled,
        the_first_try_is_timed_once_by_the_database,
        a_refusal_counts_until_the_next_try_begins,
        what_is_sent_stays_sent,
        a_renewed_action_has_a_new_uuid_and_a_new_hour,
        a_chosen_sender_is_there_for_whoever_comes_next,
        looking_at_an_event_takes_nothing_up,
        of_what_is_left_to_do_a_few_parts_are_given_for_each_manner,
        only_handler_starts_that_ended_badly_add_up,
        age_counts_from_acceptance_and_is_never_negative,
        odd_text_harms_no_other_event_of_its_batch,
        a_message_that_we_sent_is_never_handled,
        a_plan_for_a_message_that_turns_out_to_be_ours_is_refused;
    fences:
        of_two_owners_only_the_later_one_can_change_anything,
        finished_waiting_and_dead_events_are_settled,
        a_step_that_does_not_fit_the_state_changes_nothing,
        changes_of_one_event_in_one_batch_are_applied_in_order,
        a_change_whose_answer_was_lost_counts_as_applied_when_repeated;
    waiting:
        nothing_is_taken_before_it_is_due,
        due_rows_come_in_order_of_position_within_the_limits,
        a_full_chat_with_a_long_queue_holds_up_no_other,
        a_holding_row_that_is_not_due_keeps_later_ones_of_its_chat,
        a_parked_event_waits_and_is_taken_up_as_it_was,
        a_due_row_with_a_plan_comes_back_with_its_actions,
        two_workers_never_take_the_same_due_row,
        unfinished_rows_come_in_order_with_raised_fences,
        only_rows_long_past_their_time_are_overdue;
    dead:
        a_death_writes_exactly_one_dead_letter,
        a_burial_leaves_settled_events_alone,
        dead_letters_are_found_by_every_filter,
        a_replay_tries_again_what_was_not_sent,
        events_with_unknown_actions_need_a_choice,
        replays_run_at_the_same_time_have_one_effect,
        several_replays_share_one_schedule,
        pages_go_in_either_order,
        more_than_three_replays_need_force,
        a_second_death_is_a_second_letter,
        a_dropped_letter_is_closed_for_good,
        purging_removes_old_ends_and_nothing_else;
    replay:
        a_campaign_replays_oldest_first_to_the_end,
        a_campaign_stops_when_most_of_a_chunk_dies_again,
        a_campaign_goes_on_when_only_some_die_again,
        a_campaign_without_a_worker_says_so;
    crowd:
        opposed_batches_never_surface_a_deadlock,
        whoever_takes_up_a_plan_sees_its_actions,
        of_many_that_begin_an_event_one_holds_the_last_fence;
    volume:
        many_waiting_chats_cost_no_more_than_the_rows_that_are_taken,
        one_chat_with_very_many_rows_costs_no_more_than_the_rows_that_are_taken;
    priority:
        answers_come_before_notifications_before_replays,
        an_answer_pulls_along_what_stands_before_it_in_its_chat,
        answers_and_all_else_have_room_of_their_own,
        every_row_of_a_long_chat_comes_in_its_turn,
        of_what_goes_behind_a_lane_one_row_speaks_for_the_others,
        a_copy_speaks_for_nobody,
        a_chat_whose_rows_all_rely_on_one_that_is_gone_is_found_again;
    tenants:
        a_stopped_tenant_stays_stopped_until_it_is_resumed,
        calls_add_up_and_a_repeated_tally_counts_once,
        of_many_processes_one_is_the_first_to_warn;
    schema:
        four_processes_may_migrate_at_once,
        an_old_schema_says_what_to_run;
);
