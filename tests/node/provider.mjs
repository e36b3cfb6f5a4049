// An OpenID provider (oidc-provider, certified) on a loopback port, with a login page of its own; everything it knows is in memory.
//
// node provider.mjs [OPTIONS as JSON]. Its first line is its own URL. The discovery document names the issuer, and its endpoints below the
// `Host` that a request came with (X-Forwarded-Host and -Proto count).
//
//   port           to listen on; a free one unless set
//   issuer         public URL of the provider; its own URL unless set. A gateway in front of it: the gateway's
//   redirect_uris  of the client; http://127.0.0.1:1/cb unless set (nothing listens there: the test reads the address)
//   client         members of the client beside the usual: public, code with PKCE, refresh tokens, the password grant
//   clients        further clients, whole
//   configuration  members of oidc-provider's configuration in place of ours
//
// Anybody may log in, with the password "right": fields `login` and `password`. Consent is taken as given, as for a first-party client.
import { createServer } from 'node:http';

console.info = console.error; // the first line of stdout is the URL, whatever the provider has to say about its settings
console.warn = console.error;
const { default: Provider, errors, interactionPolicy } = await import('oidc-provider');

const options = JSON.parse(process.argv[2] ?? '{}');
const server = createServer();
await new Promise((resolve) => server.listen(options.port ?? 0, '127.0.0.1', resolve));
const own = `http://127.0.0.1:${server.address().port}`;

const SCOPE = 'openid profile email offline_access';
const client = {
  client_id: 'app',
  token_endpoint_auth_method: 'none',
  application_type: 'native', // loopback redirect URIs by http
  redirect_uris: options.redirect_uris ?? ['http://127.0.0.1:1/cb'],
  grant_types: ['authorization_code', 'implicit', 'refresh_token', 'password'],
  response_types: ['code', 'code id_token', 'id_token', 'none'],
  scope: SCOPE,
  ...options.client,
};

const policy = interactionPolicy.base();
policy.get('consent').checks.remove('native_client_prompt'); // it asks at every authorization, and so forbids prompt=none

async function findAccount(_ctx, id) {
  return { accountId: id, claims: async () => ({ sub: id, name: id, email: `${id}@example.test` }) };
}

async function grantOf(accountId, clientId, scope) {
  const grant = new provider.Grant({ accountId, clientId });
  grant.addOIDCScope(scope || SCOPE);
  return [grant, await grant.save()];
}

const provider = new Provider(options.issuer ?? own, {
  clients: [client, ...(options.clients ?? [])],
  findAccount,
  claims: { openid: ['sub'], profile: ['name'], email: ['email'] },
  scopes: ['openid', 'profile', 'email', 'offline_access'],
  cookies: { keys: ['of no consequence'], long: { httpOnly: true, sameSite: 'lax' }, short: { httpOnly: true, sameSite: 'lax' } },
  pkce: { methods: ['S256'], required: () => false },
  issueRefreshToken: async (_ctx, asking) => asking.grantTypeAllowed('refresh_token'),
  loadExistingGrant: async (ctx) => {
    const known = ctx.oidc.result?.consent?.grantId || ctx.oidc.session.grantIdFor(ctx.oidc.client.clientId);
    if (known) return provider.Grant.find(known);
    return (await grantOf(ctx.oidc.session.accountId, ctx.oidc.client.clientId))[0];
  },
  interactions: { policy, url: (_ctx, interaction) => `/interaction/${interaction.uid}` },
  features: {
    devInteractions: { enabled: false }, // its pages ask other hosts for fonts
    introspection: { enabled: true },
    revocation: { enabled: true },
    jwtResponseModes: { enabled: true },
    pushedAuthorizationRequests: { enabled: true },
    requestObjects: { request: true, requestUri: false },
    rpInitiatedLogout: { enabled: true },
  },
  responseTypes: ['code', 'code id_token', 'id_token', 'none'],
  renderError: async (ctx, out) => {
    ctx.type = 'text';
    ctx.body = `${out.error}: ${out.error_description ?? ''}`;
  },
  ...options.configuration,
});
provider.proxy = true;

// RFC 6749 §4.3. oidc-provider leaves this grant to those who want it.
provider.registerGrantType(
  'password',
  async (ctx, next) => {
    const { client: asking, params } = ctx.oidc;
    if (params.password !== 'right' || !params.username) throw new errors.InvalidGrant('wrong name or password');
    const [grant, grantId] = await grantOf(params.username, asking.clientId, params.scope);
    const common = { accountId: params.username, client: asking, grantId, gty: 'password', scope: grant.getOIDCScope() };
    ctx.oidc.entity('Client', asking);
    const access = new provider.AccessToken(common);
    const refresh = new provider.RefreshToken(common);
    ctx.body = {
      access_token: await access.save(),
      refresh_token: await refresh.save(),
      expires_in: access.expiration,
      token_type: 'Bearer',
      scope: common.scope,
    };
    await next();
  },
  ['username', 'password', 'scope'],
);

const page = (action, note = '') => `<!doctype html><html lang="en"><title>Log in</title><h1>Log in</h1><p>${note}</p>
<form method="post" action="${action}"><label>Name <input name="login" required></label>
<label>Password <input name="password" type="password" required></label><button>Log in</button></form></html>`;

async function formOf(request) {
  let text = '';
  for await (const piece of request) text += piece;
  return new URLSearchParams(text);
}

// Whoever is asked to log in. The name of the interaction stands in its own cookie as well, which the provider compares.
async function interact(request, response) {
  const details = await provider.interactionDetails(request, response);
  const action = `/interaction/${details.uid}`;
  const html = (status, note) => {
    response.writeHead(status, { 'content-type': 'text/html; charset=utf-8', 'cache-control': 'no-store' });
    response.end(page(action, note));
  };
  if (request.method !== 'POST') return html(200);
  const form = await formOf(request);
  if (form.get('password') !== 'right' || !form.get('login')) return html(403, 'Wrong name or password.');
  return provider.interactionFinished(request, response, { login: { accountId: form.get('login') } });
}

const handle = provider.callback();
server.on('request', (request, response) => {
  if (!request.url.startsWith('/interaction/')) return handle(request, response);
  interact(request, response).catch((error) => {
    response.writeHead(400, { 'content-type': 'text/plain' });
    response.end(String(error.error_description ?? error.message));
  });
});
process.on('SIGTERM', () => process.exit(0));
console.log(own);
