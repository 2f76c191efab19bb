// Cloud code of a Skygear v1 app, as its guide has it: every form that the page "Custom HTTP Endpoint" shows.
const skygearCloud = require('skygear/cloud');

const { ErrorCodes, SkygearError, SkygearResponse } = skygearCloud;

skygearCloud.handler('foo', function(req) {
  return 'foo';
});

skygearCloud.handler('tree/', function(req) {
  return 'tree/ ' + req.path;
});

skygearCloud.handler('abc/', function(req) {
  return 'abc/ ' + req.path;
});

skygearCloud.handler('abc/def', function(req) {
  return 'abc/def';
});

skygearCloud.handler('chat:room', function(req) {
  return 'chat:room';
});

skygearCloud.handler('/slashed', function(req) {
  return '/slashed';
});

skygearCloud.handler('twice', function(req) {
  return 'the earlier';
});

skygearCloud.handler('/twice', function(req) {
  return 'the later';
}, {
  method: ['GET']
});

skygearCloud.handler('lit/{id}', function(req) {
  return 'lit/{id}';
});

skygearCloud.handler('my_endpoint', function(req) {
  return 'got';
}, {
  method: ['GET']
});

skygearCloud.handler('my_endpoint', function(req) {
  return 'posted ' + req.body;
}, {
  method: ['POST']
});

skygearCloud.handler('item', function(req) {
  return new SkygearResponse({ statusCode: 204 });
}, {
  method: 'DELETE'
});

skygearCloud.handler('private', function(req, options) {
  const { context } = options;
  return context.user_id;
}, {
  userRequired: true
});

skygearCloud.handler('keyed', function(req, options) {
  return options.context.access_key_type;
}, {
  keyRequired: true
});

skygearCloud.handler('whoami', function(req, options) {
  const { context } = options;
  return {
    user_id: context.user_id || null,
    access_key_type: context.access_key_type || null,
    has_request_id: !!context.request_id
  };
});

skygearCloud.handler('get_query_string', function(req) {
  return {
    key: req.query.key,
    value: parseInt(req.query.value, 10)
  };
});

skygearCloud.handler('form', function(req) {
  return new Promise(function(resolve, reject) {
    req.form(function(err, fields) {
      if (err) {
        reject(err);
        return;
      }
      resolve({ a: parseInt(fields.a, 10), b: fields.b });
    });
  });
}, {
  method: ['POST']
});

skygearCloud.handler('json', function(req) {
  const { name } = req.json;
  return { name: name === undefined ? null : name };
}, {
  method: ['POST']
});

skygearCloud.handler('url/', function(req) {
  return { path: req.url.path.substring('/url/'.length) };
});

skygearCloud.handler('headers', function(req) {
  const value = (name) => (req.headers[name] || [null])[0];
  return {
    'Host': value('Host'),
    'X-Hub-Signature-256': value('X-Hub-Signature-256'),
    'X-Skygear-API-Key': value('X-Skygear-Api-Key')
  };
});

skygearCloud.handler('bytes', function(req) {
  return new SkygearResponse({
    headers: { 'Content-Type': 'application/octet-stream' },
    body: Buffer.from(req.body)
  });
}, {
  method: ['POST']
});

skygearCloud.handler('upload', function(req) {
  return new Promise(function(resolve, reject) {
    req.form(function(err, fields, files) {
      if (err) {
        reject(err);
        return;
      }
      resolve({ name: files.file.name, size: files.file.size, title: fields.title });
    });
  });
}, {
  method: ['POST']
});

skygearCloud.handler('string', function(req) {
  return 'a string: é';
});

skygearCloud.handler('dict', function(req) {
  return { name: 'John' };
});

skygearCloud.handler('list', function(req) {
  return [1, 2, 3];
});

skygearCloud.handler('int', function(req) {
  return 42;
});

skygearCloud.handler('null', function(req) {
  return null;
});

skygearCloud.handler('response', function(req) {
  return new SkygearResponse({
    statusCode: 201,
    headers: { 'Content-Type': 'text/html; charset=utf-8', 'X-Version': '1' },
    body: '<h1>created</h1>'
  });
});

skygearCloud.handler('cookies', function(req) {
  const response = new SkygearResponse({ body: 'set' });
  response.setHeader('Set-Cookie', ['theme=dark; Path=/', 'language=de; Path=/']);
  return response;
});

skygearCloud.handler('errors/not_found', function(req) {
  throw new SkygearError('no such book', ErrorCodes.ResourceNotFound, { id: 7 });
});

skygearCloud.handler('errors/password', function(req) {
  throw new SkygearError('too short', ErrorCodes.PasswordPolicyViolated, { min_length: 8 });
});

skygearCloud.handler('errors/own', function(req) {
  return Promise.reject(new SkygearError('sold out', 10001, { left: 4 }));
});

skygearCloud.handler('errors/crash', function(req) {
  throw new Error('a bug');
});

// An app has more than handlers; the rest of it must not be in their way.
skygearCloud.op('greet', function(param) {
  return 'Hello, ' + param.name;
});

skygearCloud.every('@daily', function nightly() {});

skygearCloud.beforeSave('book', function beforeBookSave(record) {
  return record;
});

skygearCloud.event('after-plugins-ready', function() {});

skygearCloud.staticAsset('/pages', function() {
  return __dirname + '/pages';
});
