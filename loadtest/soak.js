// Long and moderate: the last third of the time must be as fast as any other.
//
//   k6 run -e RATE=200 -e SECONDS=3600 -e BOTS=bots.json loadtest/soak.js      (variables: feishu.js)

import { PUSH_DEADLINE_MS, RATE, SECONDS, announce, most, summaryTrendStats, steadily } from './feishu.js';

export { event, handleSummary, late } from './feishu.js';

const THIRD = Math.floor(SECONDS / 3);

export const options = {
  scenarios: {
    events: steadily('event', RATE, { duration: `${2 * THIRD}s` }),
    late: steadily('late', RATE, { duration: `${THIRD}s`, startTime: `${2 * THIRD}s` }),
  },
  thresholds: {
    checks: ['rate==1'],
    accepted_events: most(RATE, 3 * THIRD),
    'http_req_duration{scenario:events}': ['p(99)<100', `max<${PUSH_DEADLINE_MS}`],
    'http_req_duration{scenario:late}': ['p(99)<100', `max<${PUSH_DEADLINE_MS}`],
  },
  summaryTrendStats,
};

export function setup() {
  return announce([['event', RATE * 2 * THIRD], ['late', RATE * THIRD]]);
}
