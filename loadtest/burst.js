// A burst: a quiet quarter, ten times as much at once for a quarter of the time, quiet again. Nothing is refused or late.
//
//   k6 run -e RATE=200 -e SECONDS=40 -e BOTS=bots.json loadtest/burst.js      (variables: feishu.js; the burst is 10 × RATE)

import { PUSH_DEADLINE_MS, RATE, SECONDS, announce, most, summaryTrendStats } from './feishu.js';

export { event, handleSummary } from './feishu.js';

const PEAK = 10 * RATE;
const QUARTER = SECONDS / 4;
// Three quiet quarters and one burst.
const EVENTS = (3 * RATE + PEAK) * QUARTER;

export const options = {
  scenarios: {
    events: {
      executor: 'ramping-arrival-rate',
      exec: 'event',
      startRate: RATE,
      stages: [
        { target: RATE, duration: `${QUARTER}s` },
        // A stage of no length is a jump.
        { target: PEAK, duration: '0s' },
        { target: PEAK, duration: `${QUARTER}s` },
        { target: RATE, duration: '0s' },
        { target: RATE, duration: `${2 * QUARTER}s` },
      ],
      // What half a second of answers needs: to make more while the burst is on costs k6 the events that were due meanwhile.
      preAllocatedVUs: Math.ceil(PEAK / 2),
      maxVUs: PEAK,
      gracefulStop: '10s',
    },
  },
  thresholds: {
    checks: ['rate==1'],
    accepted_events: most(EVENTS, 1),
    'http_req_duration{scenario:events}': ['p(99)<500', `max<${PUSH_DEADLINE_MS}`],
  },
  summaryTrendStats,
};

export function setup() {
  return announce([['event', EVENTS + PEAK]]);
}
