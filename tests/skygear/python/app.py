"""Cloud code of a Skygear v1 app, as its guide has it: every form that the page "Custom HTTP Endpoint" shows."""
import json

import skygear
from skygear.error import PermissionDenied, ResourceNotFound, SkygearException
from skygear.utils.context import current_context, current_user_id


@skygear.handler('foo')
def foo(request):
    return 'foo'


@skygear.handler('tree/')
def tree(request):
    return 'tree/ ' + request.path


@skygear.handler('abc/')
def abc(request):
    return 'abc/ ' + request.path


@skygear.handler('abc/def')
def abc_def(request):
    return 'abc/def'


@skygear.handler('chat:room')
def chat_room(request):
    return 'chat:room'


@skygear.handler('/slashed')
def slashed(request):
    return '/slashed'


@skygear.handler('twice')
def twice(request):
    return 'the earlier'


@skygear.handler('/twice', method=['GET'])
def twice_again(request):
    return 'the later'


@skygear.handler('lit/{id}')
def literal(request):
    return 'lit/{id}'


@skygear.handler('my_endpoint', method=['GET'])
def handle_get(request):
    return 'got'


@skygear.handler('my_endpoint', method=['POST'])
def handle_post(request):
    return 'posted ' + request.get_data(as_text=True)


@skygear.handler('item', method='DELETE')
def delete_item(request):
    return skygear.Response(status=204)


@skygear.handler('private', user_required=True)
def private(request):
    return current_user_id()


@skygear.handler('keyed', key_required=True)
def keyed(request):
    return current_context().get('access_key_type')


@skygear.handler('whoami')
def whoami(request):
    context = current_context()
    return {
        'user_id': current_user_id(),
        'access_key_type': context.get('access_key_type'),
        'has_request_id': bool(context.get('request_id')),
    }


@skygear.handler('get_query_string')
def get_query_string(request):
    params = request.args
    return {
        'key': params['key'],
        'value': int(params['value']),
    }


@skygear.handler('form', method=['POST'])
def form(request):
    params = request.form
    return {
        'a': int(params['a']),
        'b': params['b'],
    }


@skygear.handler('json', method=['POST'])
def json_request_handler(request):
    b = request.get_data()
    s = b.decode(request.charset, request.encoding_errors)
    request_body = json.loads(s)
    name = request_body.get('name')
    return {
        'name': name,
    }


@skygear.handler('url/')
def parse_url(request):
    full_path = request.full_path
    path = full_path[len('/url/'):]
    return {
        'path': path,
    }


@skygear.handler('headers')
def headers(request):
    return {name: request.headers.get(name) for name in ('Host', 'X-Hub-Signature-256', 'X-Skygear-API-Key')}


@skygear.handler('bytes', method=['POST'])
def echo_bytes(request):
    return skygear.Response(request.get_data(), content_type='application/octet-stream')


@skygear.handler('upload', method=['POST'])
def upload(request):
    uploaded = request.files['file']
    return {'name': uploaded.filename, 'size': len(uploaded.read()), 'title': request.form['title']}


@skygear.handler('string')
def return_string(request):
    return 'a string: é'


@skygear.handler('dict')
def return_dict(request):
    return {'name': 'John'}


@skygear.handler('list')
def return_list(request):
    return [1, 2, 3]


@skygear.handler('int')
def return_int(request):
    return 42


@skygear.handler('null')
def return_none(request):
    return None


@skygear.handler('response')
def return_response(request):
    response = skygear.Response('<h1>created</h1>', status=201, content_type='text/html; charset=utf-8')
    response.headers['X-Version'] = '1'
    return response


@skygear.handler('cookies')
def return_cookies(request):
    response = skygear.Response('set')
    response.set_cookie('theme', 'dark')
    response.set_cookie('language', 'de')
    return response


@skygear.handler('errors/not_found')
def not_found(request):
    raise SkygearException('no such book', ResourceNotFound, {'id': 7})


@skygear.handler('errors/password')
def password(request):
    raise SkygearException('too short', 126, {'min_length': 8})


@skygear.handler('errors/own')
def own_code(request):
    raise SkygearException('sold out', 10001, {'left': 4})


@skygear.handler('errors/crash')
def crash(request):
    raise ValueError('a bug')


class Forbidden(Exception):
    pass


@skygear.exception_handler(Forbidden)
def forbidden(exc):
    return SkygearException('keep out', PermissionDenied)


@skygear.handler('errors/mapped')
def mapped(request):
    raise Forbidden()


@skygear.rest('books')
class Books(skygear.RestfulResource):
    def index(self):
        return ['hamlet']

    def get(self, ident):
        return {'id': ident}

    def create(self):
        return self.get_payload()


# An app has more than handlers; the rest of it must not be in their way.
@skygear.op('greet')
def greet(name):
    return 'Hello, ' + name


@skygear.every('@daily')
def nightly():
    pass


@skygear.before_save('book')
def before_book_save(record, original_record, db):
    return record


@skygear.event('after-plugins-ready')
def ready(config):
    pass
