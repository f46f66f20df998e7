// Every kind of push at a moderate rate: is everything answered rightly and in time?
//
//   k6 run -e TARGET=http://127.0.0.1:9001 -e BOTS=bots.json loadtest/smoke.js      (variables: feishu.js)

import { CHALLENGE_DEADLINE_MS, PUSH_DEADLINE_MS, RATE, SECONDS, announce, most, steadily, summaryTrendStats } from './feishu.js';

export { challenge, event, forgery, handleSummary, repeat } from './feishu.js';

export const options = {
  scenarios: {
    events: steadily('event', RATE),
    repeats: steadily('repeat', 5),
    forgeries: steadily('forgery', 5),
    challenges: steadily('challenge', 1),
  },
  thresholds: {
    // Every answer is the right one.
    checks: ['rate==1'],
    accepted_events: most(RATE + 5),
    'finished_iterations{scenario:repeats}': most(5),
    'finished_iterations{scenario:forgeries}': most(5),
    'finished_iterations{scenario:challenges}': most(1),
    'http_req_duration{scenario:events}': ['p(99)<250', `max<${PUSH_DEADLINE_MS}`],
    'http_req_duration{scenario:repeats}': [`max<${PUSH_DEADLINE_MS}`],
    'http_req_duration{scenario:forgeries}': [`max<${PUSH_DEADLINE_MS}`],
    'http_req_duration{scenario:challenges}': [`max<${CHALLENGE_DEADLINE_MS}`],
  },
  summaryTrendStats,
};

export function setup() {
  return announce([['event', RATE * SECONDS], ['repeat', 5 * SECONDS]]);
}
