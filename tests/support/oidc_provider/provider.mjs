// A certified OpenID Connect provider, with a service that gets JWT access tokens by its credentials, and a confidential
// and a public client that sign people in. Further arguments are more addresses that people come back to.
import { createServer } from 'node:http';
import { generateKeyPairSync } from 'node:crypto';
import Provider from 'oidc-provider';

const signingKey = (kid) => ({
  ...generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' }), kid, use: 'sig', alg: 'RS256',
});
const addresses = ['https://llm.example', ...process.argv.slice(2)];
const people = {
  grant_types: ['authorization_code'],
  response_types: ['code'],
  redirect_uris: addresses.map((address) => `${address}/auth/callback`),
  post_logout_redirect_uris: addresses.map((address) => `${address}/auth`),
};
const groups = { alice: ['llm-admins'], bob: ['llm-users'], mallory: ['llm-users'], nobody: [] };
const server = createServer().listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [
      { client_id: 'batch', client_secret: 'a secret of the tests', grant_types: ['client_credentials'],
        redirect_uris: [], response_types: [] },
      { client_id: 'console', client_secret: 'another: secret/ of+the tests', ...people },
      { client_id: 'public-console', token_endpoint_auth_method: 'none', ...people },
    ],
    jwks: { keys: [signingKey('first')] },
    cookies: { keys: ['of the tests'] },
    pkce: { required: () => true },
    claims: { openid: ['sub'], llm: ['groups', 'tenant', 'name'] },
    findAccount: (_context, id) => ({
      accountId: id,
      claims: () => ({
        sub: id, groups: groups[id] ?? [], tenant: id === 'mallory' ? 'evil' : 'acme', name: `${id} <of Acme>`,
      }),
    }),
    features: {
      devInteractions: { enabled: true },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_context, resource) => ({
          scope: 'inference jobs', audience: resource, accessTokenFormat: 'jwt', jwt: { sign: { alg: 'RS256' } },
        }),
      },
    },
    extraTokenClaims: () => ({ groups: ['llm-users'], tenant: 'acme' }),
  });
  server.on('request', provider.callback());
  console.log(issuer);
});
