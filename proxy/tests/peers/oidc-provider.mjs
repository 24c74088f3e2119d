// Starts oidc-provider on a free port of 127.0.0.1 for one test; ends when its standard input does.
//
// The first argument is JSON: { clients: [..] }. One line on standard output tells the URL.
// POST /test/rotate makes a new signing key; the one before it stays published.
// A certificate in PEM, in base64, in the header x-test-certificate stands for the one a client shows in TLS.
import { createServer } from 'node:http';
import { generateKeyPairSync, webcrypto } from 'node:crypto';

// Node 18, which Debian 12 has, does not define it.
globalThis.crypto ??= webcrypto;
const { Provider } = await import('oidc-provider');

const { clients } = JSON.parse(process.argv[2]);
const keys = [];

function rotate() {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const kid = `key-${keys.length === 0 ? 1 : Number(keys[0].kid.slice(4)) + 1}`;
  keys.unshift({ ...privateKey.export({ format: 'jwk' }), kid, use: 'sig', alg: 'ES256' });
  keys.length = Math.min(keys.length, 2);
}

// What was issued outlives a rotation.
const issued = new Map();
class Adapter {
  constructor(kind) { this.kind = kind; }
  async upsert(id, payload) { issued.set(`${this.kind}:${id}`, payload); }
  async find(id) { return issued.get(`${this.kind}:${id}`); }
  async consume(id) { issued.get(`${this.kind}:${id}`).consumed = true; }
  async destroy(id) { issued.delete(`${this.kind}:${id}`); }
}

function provider(issuer) {
  return new Provider(issuer, {
    adapter: Adapter,
    clients,
    jwks: { keys },
    clientDefaults: { id_token_signed_response_alg: 'ES256' },
    scopes: ['crm.read', 'crm.write'],
    enabledJWA: { clientAuthSigningAlgValues: ['ES256', 'RS256', 'PS256'] },
    clientAuthMethods: ['client_secret_basic', 'client_secret_post', 'private_key_jwt'],
    ttl: { ClientCredentials: 600 },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      revocation: { enabled: true },
      introspection: { enabled: true, allowedPolicy: async () => true },
      mTLS: {
        enabled: true,
        certificateBoundAccessTokens: true,
        getCertificate(ctx) {
          const pem = ctx.get('x-test-certificate');
          return pem ? Buffer.from(pem, 'base64').toString() : undefined;
        },
      },
      resourceIndicators: {
        enabled: true,
        defaultResource: async () => 'urn:crm:opaque',
        useGrantedResource: async () => true,
        getResourceServerInfo: async (ctx, resource) => ({
          scope: 'crm.read crm.write',
          audience: 'crm',
          accessTokenTTL: 600,
          accessTokenFormat: resource === 'urn:crm:jwt' ? 'jwt' : 'opaque',
          jwt: { sign: { alg: 'ES256' } },
        }),
      },
    },
  }).callback();
}

rotate();
let handle;
const server = createServer((request, response) => {
  if (request.url === '/test/rotate') {
    rotate();
    handle = provider(url);
    response.end(keys[0].kid);
    return;
  }
  handle(request, response);
});
let url;
server.listen(0, '127.0.0.1', () => {
  url = `http://127.0.0.1:${server.address().port}`;
  handle = provider(url);
  console.log(JSON.stringify({ url }));
});
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
