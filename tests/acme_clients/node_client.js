// Issue or revoke with npm's acme-client, in the current folder: `issue METHOD NAME ...`, `revoke`, `change-key`.
'use strict';

const fs = require('fs');
const http = require('http');
const acme = require('acme-client');

const answers = new Map();

async function main(command, ...rest) {
    const isNew = !fs.existsSync('account.pem');
    const accountKey = isNew ? await acme.crypto.createPrivateEcdsaKey() : fs.readFileSync('account.pem');
    fs.writeFileSync('account.pem', accountKey);
    const client = new acme.Client({
        directoryUrl: process.env.ACME_DIRECTORY,
        accountKey,
        backoffMin: 100,
        backoffMax: 1000,
    });
    if (command === 'issue') {
        await issue(client, rest[0], rest.slice(1));
    } else if (command === 'revoke') {
        await client.createAccount({ onlyReturnExisting: true });
        await client.revokeCertificate(fs.readFileSync('chain.pem'), { reason: 4 });
    } else if (command === 'change-key') {
        await client.createAccount({ onlyReturnExisting: true });
        const next = await acme.crypto.createPrivateEcdsaKey();
        await client.updateAccountKey(next);
        fs.writeFileSync('account.pem', next);
    } else {
        throw new Error(`unknown command ${command}`);
    }
}

async function issue(client, method, names) {
    const [key, csr] = await acme.crypto.createCsr({ altNames: names }, await acme.crypto.createPrivateEcdsaKey());
    const server = http.createServer((request, response) => {
        const answer = answers.get(request.url);
        response.writeHead(answer === undefined ? 404 : 200, { Connection: 'close' });
        response.end(answer);
    });
    if (method === 'http-01') {
        await new Promise((resolve) => server.listen(Number(process.env.HTTP_PORT), '127.0.0.1', resolve));
    }
    try {
        const chain = await client.auto({
            csr,
            email: 'admin@example.test',
            termsOfServiceAgreed: true,
            // It would ask the system's resolver.
            skipChallengeVerification: true,
            challengePriority: [method],
            challengeCreateFn: (authorization, challenge, text) => present(authorization, challenge, text, true),
            challengeRemoveFn: (authorization, challenge, text) => present(authorization, challenge, text, false),
        });
        fs.writeFileSync('key.pem', key);
        fs.writeFileSync('chain.pem', chain);
    } finally {
        server.close();
    }
}

async function present(authorization, challenge, text, isNew) {
    if (challenge.type === 'http-01') {
        const path = `/.well-known/acme-challenge/${challenge.token}`;
        if (isNew) answers.set(path, text);
        else answers.delete(path);
        return;
    }
    const body = JSON.stringify({ host: `_acme-challenge.${authorization.identifier.value}.`, value: text });
    const url = `${process.env.DNS_CONTROL}/${isNew ? 'set-txt' : 'clear-txt'}`;
    const response = await fetch(url, { method: 'POST', body });
    if (!response.ok) throw new Error(`the DNS server says ${response.status}`);
}

main(...process.argv.slice(2)).catch((error) => {
    console.error(error);
    process.exitCode = 1;
});
