// What every script here shares: events as Feishu pushes them (encrypted, signed), the scenarios' promises, the figures.
//
// TARGET  ingest's address
// BOTS    path of a JSON file: [{ "bot", "app_id", "encrypt_key", "verification_token" }, …]
// RATE    events a second; k6 itself needs half a core for 1000
// SECONDS how long
// SIM     address of `openclaw sim`, when that plays Feishu: it is told of every message, so that it can be replied to
// RESULT  file for the figures; they are printed in any case

import encoding from 'k6/encoding';
import exec from 'k6/execution';
import http from 'k6/http';
import { check } from 'k6';
import { randomBytes, sha256 } from 'k6/crypto';
import { Counter } from 'k6/metrics';

const TARGET = __ENV.TARGET || 'http://127.0.0.1:9001';
const BOTS = JSON.parse(open(__ENV.BOTS));
const SIM = __ENV.SIM;
export const RATE = Number(__ENV.RATE || 300);
export const SECONDS = Number(__ENV.SECONDS || 20);
const CHATS_PER_BOT = 50;
// Feishu counts a push as failed after 3 s, and wants a challenge answered within 1 s.
export const PUSH_DEADLINE_MS = 3000;
export const CHALLENGE_DEADLINE_MS = 1000;

const accepted = new Counter('accepted_events');
const finished = new Counter('finished_iterations');

// A run that pushed nothing proves nothing: a threshold without samples counts as held.
export function most(rate, seconds = SECONDS) {
  return [`count>=${Math.floor(rate * seconds * 0.95)}`];
}

export function steadily(exec, rate, more = {}) {
  return {
    executor: 'constant-arrival-rate',
    exec,
    rate,
    duration: `${SECONDS}s`,
    // Few: a connection is used again long before ingest's idle limit, which nobody can push across without a race.
    preAllocatedVUs: Math.max(2, Math.ceil(rate / 10)),
    maxVUs: Math.max(20, rate),
    gracefulStop: '10s',
    ...more,
  };
}

export const summaryTrendStats = ['med', 'p(90)', 'p(99)', 'max'];

// ---- events -------------------------------------------------------------------------------------------------------

const RUN = encoding.b64encode(randomBytes(6), 'rawurl').replace(/[-_]/g, 'x');

function botOf(n) {
  return BOTS[n % BOTS.length];
}

function chatOf(n) {
  return `oc_smoke_${botOf(n).bot}_${Math.floor(n / BOTS.length) % CHATS_PER_BOT}`;
}

// kind: messages of different scenarios never share an id.
function messageOf(run, kind, n) {
  return `om_smoke_${run}_${kind}_${n}`;
}

function textEvent(run, kind, n) {
  const bot = botOf(n);
  const now = String(Date.now());
  const user = { union_id: `on_smoke_${n % 97}`, user_id: `u${n % 97}`, open_id: `ou_smoke_${n % 97}` };
  return {
    schema: '2.0',
    header: {
      event_id: `ev_smoke_${run}_${kind}_${n}`,
      event_type: 'im.message.receive_v1',
      create_time: now,
      token: bot.verification_token,
      app_id: bot.app_id,
      tenant_key: 'smoke',
    },
    event: {
      sender: { sender_id: user, sender_type: 'user', tenant_key: 'smoke' },
      message: {
        message_id: messageOf(run, kind, n),
        create_time: now,
        update_time: now,
        chat_id: chatOf(n),
        chat_type: 'group',
        message_type: 'text',
        content: JSON.stringify({ text: `question ${n}: ${'what is in stock? '.repeat(20)}` }),
      },
    },
  };
}

// ---- as Feishu wraps them: {"encrypt": base64(iv + AES-256-CBC)}, key and signature from SHA-256 ---------------------

const keys = {};

function keyOf(bot) {
  if (!keys[bot.bot]) {
    const digest = sha256(bot.encrypt_key, 'binary');
    keys[bot.bot] = crypto.subtle.importKey('raw', digest, { name: 'AES-CBC' }, false, ['encrypt']);
  }
  return keys[bot.bot];
}

// By way of Base64, which k6 does natively: a loop over the characters took half of the script's time.
function bytesOf(text) {
  return encoding.b64decode(encoding.b64encode(text));
}

async function encrypted(bot, event) {
  const iv = new Uint8Array(randomBytes(16));
  const cipher = await crypto.subtle.encrypt({ name: 'AES-CBC', iv }, await keyOf(bot), bytesOf(JSON.stringify(event)));
  const both = new Uint8Array(iv.length + cipher.byteLength);
  both.set(iv);
  both.set(new Uint8Array(cipher), iv.length);
  return JSON.stringify({ encrypt: encoding.b64encode(both.buffer) });
}

function push(bot, body, key) {
  const timestamp = String(Math.floor(Date.now() / 1000));
  const nonce = encoding.b64encode(randomBytes(12), 'rawurl');
  const headers = { 'Content-Type': 'application/json' };
  if (key) {
    headers['X-Lark-Request-Timestamp'] = timestamp;
    headers['X-Lark-Request-Nonce'] = nonce;
    headers['X-Lark-Signature'] = sha256(timestamp + nonce + key + body, 'hex');
  }
  return http.post(`${TARGET}/webhook/${bot.bot}`, body, { headers, timeout: '10s', tags: { name: 'webhook' } });
}

// ---- scenarios ----------------------------------------------------------------------------------------------------

// Tells the simulator of the messages to come: kinds are [kind, how many] pairs.
export function announce(kinds) {
  if (SIM) {
    for (const [kind, count] of kinds) {
      // One more second's worth: the last arrivals may come a moment late.
      const messages = [];
      for (let n = 0; n < count + RATE; n++) messages.push({ message_id: messageOf(RUN, kind, n), chat_id: chatOf(n) });
      for (let begin = 0; begin < messages.length; begin += 2000) {
        const answer = http.post(`${SIM}/sim/messages`, JSON.stringify(messages.slice(begin, begin + 2000)), {
          headers: { 'Content-Type': 'application/json' },
        });
        if (answer.status !== 204) throw new Error(`the simulator does not take messages: ${answer.status} ${answer.body}`);
      }
    }
  }
  return { run: RUN };
}

export function event({ run }) {
  return pushed(run, 'event');
}

// The same, for a second scenario of a script: its numbers begin again, so its messages are of another kind.
export function late({ run }) {
  return pushed(run, 'late');
}

async function pushed(run, kind) {
  const n = exec.scenario.iterationInTest;
  const bot = botOf(n);
  const answer = push(bot, await encrypted(bot, textEvent(run, kind, n)), bot.encrypt_key);
  if (check(answer, { 'an event is accepted': (a) => a.status === 200 && a.body === '{}' })) accepted.add(1);
}

// Feishu pushes again when an answer got lost: the same event, encrypted anew, is accepted like the first time.
export async function repeat({ run }) {
  const n = exec.scenario.iterationInTest;
  const bot = botOf(n);
  const same = textEvent(run, 'repeat', n);
  const first = push(bot, await encrypted(bot, same), bot.encrypt_key);
  if (check(first, { 'an event is accepted': (a) => a.status === 200 && a.body === '{}' })) accepted.add(1);
  const second = push(bot, await encrypted(bot, same), bot.encrypt_key);
  check(second, { 'its repetition is accepted too': (a) => a.status === 200 && a.body === '{}' });
  finished.add(1);
}

export async function forgery({ run }) {
  const n = exec.scenario.iterationInTest;
  const bot = botOf(n);
  const answer = push(bot, await encrypted(bot, textEvent(run, 'forgery', n)), 'not the key');
  check(answer, {
    'a forged event is refused': (a) => a.status === 401 && a.json('error.code') === 'bad_signature',
  });
  finished.add(1);
}

// The address check has no signature: the key and the token prove it.
export async function challenge() {
  const n = exec.scenario.iterationInTest;
  const bot = botOf(n);
  const question = `challenge-${n}`;
  const body = { challenge: question, token: bot.verification_token, type: 'url_verification' };
  const answer = push(bot, await encrypted(bot, body), null);
  check(answer, { 'a challenge is answered': (a) => a.status === 200 && a.json('challenge') === question });
  finished.add(1);
}

// ---- figures ------------------------------------------------------------------------------------------------------

export function handleSummary(data) {
  const values = (name) => (data.metrics[name] ? data.metrics[name].values : {});
  const round = (value) => (value === undefined ? null : Math.round(value * 10) / 10);
  const latency = values('http_req_duration{scenario:events}');
  const broken = [];
  for (const [name, metric] of Object.entries(data.metrics)) {
    for (const [threshold, result] of Object.entries(metric.thresholds || {})) {
      if (!result.ok) broken.push(`${name}: ${threshold}`);
    }
  }
  const figures = {
    accepted: values('accepted_events').count || 0,
    not_pushed: values('dropped_iterations').count || 0,
    wrong_answers: values('checks').fails || 0,
    median_ms: round(latency.med),
    p99_ms: round(latency['p(99)']),
    max_ms: round(latency.max),
    broken,
  };
  const text = `${JSON.stringify(figures)}\n`;
  return __ENV.RESULT ? { stdout: text, [__ENV.RESULT]: text } : { stdout: text };
}
