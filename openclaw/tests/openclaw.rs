//! The program as its users meet it: real processes, real servers, a simulated Feishu that judges.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod openclaw {
    mod bots;
    mod check;
    mod command_line;
    mod database;
    mod dlq;
    mod faults;
    mod feedback;
    mod heavy;
    mod oddities;
    mod pipeline;
    mod pools;
    mod sealing;
    mod send;
    mod start;
}
