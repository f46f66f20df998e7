// A steady rate, as on an ordinary day: every event is accepted, and soon.
//
//   k6 run -e RATE=1000 -e SECONDS=60 -e BOTS=bots.json loadtest/steady.js      (variables: feishu.js)

import { PUSH_DEADLINE_MS, RATE, SECONDS, announce, most, steadily, summaryTrendStats } from './feishu.js';

export { event, handleSummary } from './feishu.js';

export const options = {
  scenarios: { events: steadily('event', RATE) },
  thresholds: {
    checks: ['rate==1'],
    accepted_events: most(RATE),
    'http_req_duration{scenario:events}': ['p(99)<100', `max<${PUSH_DEADLINE_MS}`],
  },
  summaryTrendStats,
};

export function setup() {
  return announce([['event', RATE * SECONDS]]);
}
