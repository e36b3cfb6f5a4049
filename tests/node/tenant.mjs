// Plays the part of a tenant of Auth0 towards one post-login Action, as its documents describe it. It checks nothing that they do not say.
//
// node tenant.mjs ACTION.js SECRETS-AS-JSON [USER-AS-JSON]. GET /login is a login that has just succeeded: the Action runs, and may redirect.
// /continue runs `onContinuePostLogin`. What a login comes to is JSON: {"user", "metadata"} or, by 403, {"denied"}.
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';

const require = createRequire(import.meta.url);
const jwt = require('jsonwebtoken');

const [file, secrets, user] = process.argv.slice(2);
const known = JSON.parse(user ?? '{"user_id": "auth0|alice", "email": "alice@example.test"}');
const exported = {};
new Function('exports', 'require', readFileSync(file, 'utf8'))(exported, require);

const waiting = new Map(); // state to what its login has come to
const server = createServer();
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const hostname = `127.0.0.1:${server.address().port}`;

function apiOf(login, { state, given }) {
  return {
    access: { deny: (reason) => (login.denied = reason) },
    user: { setAppMetadata: (name, value) => (login.metadata[name] = value) },
    redirect: {
      encodeToken: ({ secret, expiresInSeconds = 900, payload = {} }) =>
        jwt.sign({ iss: hostname, sub: known.user_id, ip: '127.0.0.1', ...payload }, secret, { expiresIn: expiresInSeconds }),
      sendUserTo: (url, { query = {} } = {}) => {
        login.away = new URL(url);
        for (const [name, value] of Object.entries(query)) login.away.searchParams.set(name, value);
      },
      validateToken: ({ secret, tokenParameterName = 'session_token' }) => {
        const payload = jwt.verify(given.get(tokenParameterName) ?? '', secret, { algorithms: ['HS256'] });
        if (payload.state !== state) throw new Error('State in the token does not match the /continue state.');
        return payload;
      },
    },
  };
}

async function formOf(request) {
  let text = '';
  for await (const piece of request) text += piece;
  return new URLSearchParams(text);
}

async function answer(request) {
  const url = new URL(request.url, `http://${hostname}`);
  const given = new URLSearchParams([...url.searchParams, ...(request.method === 'POST' ? await formOf(request) : [])]);
  const event = { user: known, request: { hostname, method: request.method, body: Object.fromEntries(given) }, secrets: JSON.parse(secrets) };
  if (url.pathname === '/login') {
    const login = { metadata: {} };
    await exported.onExecutePostLogin(event, apiOf(login, { given }));
    if (!login.away) return [200, { user: known, metadata: login.metadata }];
    const state = randomBytes(16).toString('base64url');
    waiting.set(state, login);
    login.away.searchParams.set('state', state);
    return [302, {}, String(login.away)];
  }
  const login = url.pathname === '/continue' && waiting.get(given.get('state'));
  if (!login) return [400, { error: 'invalid_request' }];
  waiting.delete(given.get('state'));
  await exported.onContinuePostLogin(event, apiOf(login, { state: given.get('state'), given }));
  return login.denied ? [403, { denied: login.denied }] : [200, { user: known, metadata: login.metadata }];
}

server.on('request', (request, response) => {
  answer(request)
    .catch((error) => [403, { denied: error.message }])
    .then(([status, body, location]) => {
      response.writeHead(status, { 'content-type': 'application/json', ...(location ? { location } : {}) });
      response.end(JSON.stringify(body));
    });
});
process.on('SIGTERM', () => process.exit(0));
console.log(`http://${hostname}`);
