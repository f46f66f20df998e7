// What really arrives: events, and beside them a tenth each of repetitions and forgeries, and address checks.
//
//   k6 run -e RATE=500 -e SECONDS=60 -e BOTS=bots.json loadtest/mixed.js      (variables: feishu.js)

import { CHALLENGE_DEADLINE_MS, PUSH_DEADLINE_MS, RATE, SECONDS, announce, most, steadily, summaryTrendStats } from './feishu.js';

export { challenge, event, forgery, handleSummary, repeat } from './feishu.js';

const TENTH = Math.max(1, Math.round(RATE / 10));

export const options = {
  scenarios: {
    events: steadily('event', RATE),
    repeats: steadily('repeat', TENTH),
    forgeries: steadily('forgery', TENTH),
    challenges: steadily('challenge', 2),
  },
  thresholds: {
    checks: ['rate==1'],
    // A repetition is accepted, and counts once.
    accepted_events: most(RATE + TENTH),
    'finished_iterations{scenario:repeats}': most(TENTH),
    'finished_iterations{scenario:forgeries}': most(TENTH),
    'finished_iterations{scenario:challenges}': most(2),
    'http_req_duration{scenario:events}': ['p(99)<250', `max<${PUSH_DEADLINE_MS}`],
    'http_req_duration{scenario:repeats}': [`max<${PUSH_DEADLINE_MS}`],
    'http_req_duration{scenario:forgeries}': [`max<${PUSH_DEADLINE_MS}`],
    'http_req_duration{scenario:challenges}': [`max<${CHALLENGE_DEADLINE_MS}`],
  },
  summaryTrendStats,
};

export function setup() {
  return announce([['event', RATE * SECONDS], ['repeat', TENTH * SECONDS]]);
}
