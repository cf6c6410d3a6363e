"""The 39 cases of docs/reliability.md, and the tests of each."""

DISTURBED = "reliability/test_disturbed_runs.py"
KILLED = "recipes/test_killed_runs.py"
PREPARED = "recipes/test_killed_preparation.py"
TOGETHER = "training/test_many_processes.py"
SIGNALS = "training/test_signals.py"
PROCESSES = "arguments/test_processes.py"
CHECKPOINTS = "training/test_checkpoints.py"
RESUMED = "training/test_resume.py"
NUMBERS = "training/test_numbers.py"
SOURCES = "data/test_sources.py"
BAD_INPUT = "recipes/test_bad_input.py"

# Case: file (below tests/) and name of each test.
CASES: dict[str, tuple[tuple[str, str], ...]] = {
    # Crash and resume
    "A1": (
        (DISTURBED, "test_from_any_checkpoint_weights_states_and_losses_are_the_same"),
        (KILLED, "test_pretraining"),
        (KILLED, "test_classification"),
        (KILLED, "test_instructions"),
        (KILLED, "test_preferences"),
    ),
    "A2": ((DISTURBED, "test_killed_at_random_instants"),),
    "A3": (
        (DISTURBED, "test_bad_checkpoints_are_named_and_passed_over"),
        (CHECKPOINTS, "test_each_file_that_is_damaged_is_named_and_the_checkpoint_before_is_taken"),
    ),
    "A4": (
        (DISTURBED, "test_bad_checkpoints_are_named_and_passed_over"),
        (DISTURBED, "test_where_no_checkpoint_is_whole_training_begins_anew"),
        (CHECKPOINTS, "test_each_file_that_is_damaged_is_named_and_the_checkpoint_before_is_taken"),
    ),
    "A5": (
        (DISTURBED, "test_bad_checkpoints_are_named_and_passed_over"),
        (CHECKPOINTS, "test_each_file_that_is_damaged_is_named_and_the_checkpoint_before_is_taken"),
    ),
    "A6": ((DISTURBED, "test_bad_checkpoints_are_named_and_passed_over"),),
    "A7": (
        (CHECKPOINTS, "test_a_disk_without_room_is_refused_before_training"),
        (DISTURBED, "test_a_full_disk_is_one_sentence_and_what_was_saved_stays"),
        (DISTURBED, "test_a_file_that_may_not_grow_in_the_first_save_is_one_sentence"),
    ),
    "A8": ((DISTURBED, "test_a_signal_saves_at_the_end_of_the_step_and_stops"),),
    "A9": (
        (DISTURBED, "test_a_signal_saves_at_the_end_of_the_step_and_stops"),
        (SIGNALS, "test_a_second_ctrl_c_leaves_at_once_and_an_echo_of_the_first_does_not"),
    ),
    "A10": (
        (DISTURBED, "test_two_processes_that_are_signalled_apart_stop_at_the_same_step"),
        (SIGNALS, "test_of_two_processes_both_stop_where_one_got_the_signal"),
    ),
    "A11": ((DISTURBED, "test_one_of_two_processes_is_killed_twice"),),
    "A12": (
        (DISTURBED, "test_a_rate_that_is_far_too_high_stops_before_the_update_and_every_checkpoint_is_finite"),
        (NUMBERS, "test_a_loss_that_is_not_finite_stops_before_the_update_and_names_step_and_rows"),
        (NUMBERS, "test_a_gradient_that_is_not_finite_stops_though_the_loss_is"),
    ),
    "A13": ((DISTURBED, "test_a_finished_run_is_started_twice_more"),),
    "A14": (
        (RESUMED, "test_what_would_train_another_model_is_refused_with_both_values_and_the_way_out"),
        (RESUMED, "test_an_allowed_change_is_noted_and_has_its_effect"),
    ),
    "A15": (
        (TOGETHER, "test_a_run_goes_on_alone_with_shares_with_copies_and_alone_again"),
        (TOGETHER, "test_two_processes_read_the_rows_of_one_and_have_its_losses"),
    ),
    "A16": (
        (PROCESSES, "test_one_process_where_several_were_asked_for_is_refused"),
        (PROCESSES, "test_accelerate_launch_with_two_processes_ends_in_one_line_with_the_command_that_works"),
    ),
    "A17": (("reliability/test_rows_of_a_resume.py", "test_going_on_at_step_16000_reads_three_batches_at_most"),),
    "A18": (
        ("reliability/test_rows_of_a_resume.py", "test_a_second_pass_goes_on_at_the_right_row"),
        (KILLED, "test_pretraining_on_rows_that_change_in_every_epoch"),
    ),
    # Data
    "B1": (
        (BAD_INPUT, "test_invalid_utf8_in_the_middle_leaves_nothing"),
        (SOURCES, "test_invalid_utf8_is_named_by_file_line_and_byte"),
        ("data/test_encoding.py", "test_lines_that_are_not_valid_can_be_left_out_and_are_handed_over"),
    ),
    "B2": (
        (SOURCES, "test_broken_json_lines_are_named_by_file_line_field_and_type"),
        (SOURCES, "test_rows_that_are_no_documents_are_skipped_and_counted_where_that_is_asked_for"),
    ),
    "B3": (
        ("data/test_encoding.py", "test_a_byte_order_mark_is_read_and_the_text_is_the_same"),
        ("data/test_encoding.py", "test_lines_end_at_lf_crlf_and_a_lone_cr_and_nowhere_else"),
        ("test_tokenization.py", "test_every_text_comes_back_as_it_was"),
    ),
    "B4": (
        (BAD_INPUT, "test_a_blank_corpus_says_how_many_tokens_it_has_and_needs"),
        (BAD_INPUT, "test_an_empty_corpus"),
    ),
    "B5": (
        (BAD_INPUT, "test_a_broken_json_line"),
        (SOURCES, "test_broken_json_lines_are_named_by_file_line_field_and_type"),
    ),
    "B6": (
        ("data/test_hostile_files.py", "test_a_compressed_file_is_refused_before_a_byte_of_it_is_unpacked"),
        ("data/test_hostile_files.py", "test_two_gigabytes_in_one_line_are_refused_in_bounded_memory"),
    ),
    "B7": (
        (PREPARED, "test_rows_are_the_same_whenever_their_making_was_killed"),
        (PREPARED, "test_a_second_writer_is_refused_while_the_first_lives_and_not_after"),
        ("data/test_row_hashes.py", "test_a_file_that_is_cut_or_missing_is_named"),
    ),
    # Security
    "C1": (
        (DISTURBED, "test_a_pickle_in_any_file_of_a_checkpoint_is_never_run"),
        ("hub/test_scan.py", "test_a_pickle_in_the_clothes_of_safetensors_is_refused_and_never_loaded"),
    ),
    "C2": (
        ("tokenization/test_algorithms.py", "test_special_strings_in_the_corpus_leave_no_trace_in_the_vocabulary"),
        ("test_tokenization.py", "test_text_never_becomes_a_special_token"),
    ),
    "C3": (
        ("data/test_supervised.py", "test_no_content_makes_a_special_token_under_a_base_models_own_template"),
        ("data/test_conversations.py", "test_a_row_that_is_no_conversation_is_refused_with_its_place"),
    ),
    "C4": (
        ("hub/test_publish.py", "test_the_token_goes_to_the_hub_alone_and_into_no_file"),
        ("hub/test_push_and_load.py", "test_push_to_hub_tells_the_token_to_nobody_but_the_hub"),
        ("hub/test_push_and_load.py", "test_a_token_is_no_argument"),
    ),
    "C5": (("hub/test_export.py", "test_only_the_files_of_the_allow_list_leave_and_the_folder_stays_as_it_is"),),
    "C6": (("reliability/test_foreign_code.py", "test_a_base_that_names_foreign_code_runs_none_and_asks_no_network"),),
    "C7": (("hub/test_card_hostile.py", "test_a_card_full_of_hostile_texts_is_valid_and_shows_them"),),
    # Further cases
    "D01": (
        (KILLED, "test_pretraining"),
        (KILLED, "test_classification"),
        (KILLED, "test_instructions"),
        (KILLED, "test_preferences"),
    ),
    "D24": ((KILLED, "test_instructions"),),
    "D03": (
        (KILLED, "test_overwriting_goes_through_a_link_and_says_what_it_cannot_remove"),
        ("arguments/test_arguments.py", "test_through_a_link_the_folder_that_it_points_to_is_replaced"),
    ),
    "D08": ((KILLED, "test_a_finished_run_that_is_damaged_is_finished_again"),),
    "D16": ((KILLED, "test_no_configuration_replaces_what_lies_there"),),
    "D23": (
        (RESUMED, "test_a_second_run_in_the_folder_is_refused_while_the_first_lives_and_not_after"),
        (DISTURBED, "test_a_second_run_in_the_same_folder_is_refused_and_the_first_goes_on"),
    ),
    "D-L": ((SIGNALS, "test_a_signal_always_leaves_a_checkpoint_and_nobody_who_trains_on"),),
}
