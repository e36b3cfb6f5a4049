// Solves one ALTCHA v2 challenge, algorithm PBKDF2/SHA-256: finds the counter whose derived key begins with keyPrefix.
// WebCrypto where the page is a secure context; on plain http it is missing, so SHA-256 (FIPS 180-4) and PBKDF2 (RFC 8018 §5.2)
// are here as well. Posts {progress: 0…100} now and then, and at the end {solution} or {solution: null}.

"use strict";

const hexToBytes = (hex) => Uint8Array.from(hex.match(/../g) ?? [], (pair) => parseInt(pair, 16));
const bytesToHex = (bytes) => Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");

// Round constants: the first 32 bits of the fractional parts of the square and cube roots of the first primes. Roots are taken
// by comparing integers, so that no rounding of a Math function can change a bit.
function fractions(count, power) {
  const words = [];
  for (let n = 2n; words.length < count; n++) {
    let prime = true;
    for (let d = 2n; d * d <= n; d++) if (n % d === 0n) prime = false;
    if (!prime) continue;
    const target = n << (32n * power);
    let low = 0n;
    let high = 1n << 42n;
    while (high - low > 1n) {
      const middle = (low + high) >> 1n;
      if (middle ** power <= target) low = middle;
      else high = middle;
    }
    words.push(Number(low & 0xffffffffn) | 0);
  }
  return Int32Array.from(words);
}

const K = fractions(64, 3n);
const START = fractions(8, 2n);
const W = new Int32Array(64);

// One block of 16 big-endian words into a state of 8 words.
function compress(state, block) {
  for (let t = 0; t < 16; t++) W[t] = block[t];
  for (let t = 16; t < 64; t++) {
    const x = W[t - 15];
    const y = W[t - 2];
    const s0 = ((x >>> 7) | (x << 25)) ^ ((x >>> 18) | (x << 14)) ^ (x >>> 3);
    const s1 = ((y >>> 17) | (y << 15)) ^ ((y >>> 19) | (y << 13)) ^ (y >>> 10);
    W[t] = (W[t - 16] + s0 + W[t - 7] + s1) | 0;
  }
  let [a, b, c, d, e, f, g, h] = state;
  for (let t = 0; t < 64; t++) {
    const S1 = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7));
    const t1 = (h + S1 + ((e & f) ^ (~e & g)) + K[t] + W[t]) | 0;
    const S0 = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10));
    const t2 = (S0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    h = g; g = f; f = e; e = (d + t1) | 0; d = c; c = b; b = a; a = (t1 + t2) | 0;
  }
  state[0] += a; state[1] += b; state[2] += c; state[3] += d; state[4] += e; state[5] += f; state[6] += g; state[7] += h;
}

// `bytes` as the last block of a message of which `before` bytes were hashed: padded with its length. At most 55 bytes.
function lastBlock(bytes, before) {
  const padded = new Uint8Array(64);
  padded.set(bytes);
  padded[bytes.length] = 0x80;
  const words = new Int32Array(16);
  const view = new DataView(padded.buffer);
  for (let i = 0; i < 16; i++) words[i] = view.getInt32(i * 4);
  words[15] = (before + bytes.length) * 8;
  return words;
}

function keyedState(key, pad) {
  const block = new Uint8Array(64).fill(pad);
  for (let i = 0; i < key.length; i++) block[i] ^= key[i];
  const words = new Int32Array(16);
  const view = new DataView(block.buffer);
  for (let i = 0; i < 16; i++) words[i] = view.getInt32(i * 4);
  const state = START.slice();
  compress(state, words);
  return state;
}

// PBKDF2 with HMAC-SHA-256; password at most 64 bytes, salt at most 51, one block (32 bytes) of output.
function pbkdf2(password, salt, iterations) {
  const inner = keyedState(password, 0x36);
  const outer = keyedState(password, 0x5c);
  const message = new Uint8Array(salt.length + 4);
  message.set(salt);
  message[salt.length + 3] = 1;
  const block = lastBlock(new Uint8Array(32), 64);
  const state = new Int32Array(8);
  const hmac = (words) => {
    state.set(inner);
    compress(state, words);
    block.set(state);
    state.set(outer);
    compress(state, block);
    block.set(state);
  };
  hmac(lastBlock(message, 64));
  const sum = state.slice();
  for (let i = 1; i < iterations; i++) {
    hmac(block);
    for (let j = 0; j < 8; j++) sum[j] ^= state[j];
  }
  const out = new Uint8Array(32);
  const view = new DataView(out.buffer);
  sum.forEach((word, i) => view.setInt32(i * 4, word));
  return out;
}

async function native(password, salt, iterations) {
  const key = await self.crypto.subtle.importKey("raw", password, "PBKDF2", false, ["deriveBits"]);
  return new Uint8Array(await self.crypto.subtle.deriveBits({ name: "PBKDF2", hash: "SHA-256", salt, iterations }, key, 256));
}

async function solve({ algorithm, nonce, salt, cost, keyLength, keyPrefix, data }) {
  if (algorithm !== "PBKDF2/SHA-256" || keyLength !== 32) return null;
  const derive = self.crypto?.subtle ? native : pbkdf2;
  const saltBytes = hexToBytes(salt);
  const prefix = hexToBytes(keyPrefix);
  const password = new Uint8Array(nonce.length / 2 + 4);
  password.set(hexToBytes(nonce));
  const counterView = new DataView(password.buffer, nonce.length / 2);
  const started = performance.now();
  let shown = started;
  for (let counter = 0; counter <= data.maxNumber; counter++) {
    counterView.setUint32(0, counter);
    const key = await derive(password, saltBytes, cost);
    if (prefix.every((byte, i) => key[i] === byte)) {
      return { counter, derivedKey: bytesToHex(key), time: Math.round(performance.now() - started) };
    }
    if (performance.now() - shown > 100) {
      shown = performance.now();
      self.postMessage({ progress: (100 * counter) / data.maxNumber });
    }
  }
  return null;
}

self.addEventListener("message", async ({ data }) => {
  let solution = null;
  try {
    solution = await solve(data);
  } finally {
    self.postMessage({ solution });
  }
});
